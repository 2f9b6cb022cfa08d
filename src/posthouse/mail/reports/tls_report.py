"""TLS reports (RFC 8460): what senders tell a domain about the encryption of its mail. Written here, and read here from strangers."""

from __future__ import annotations

import binascii
import re
import zlib
from base64 import b64decode
from collections.abc import Mapping, Sequence
from datetime import date
from email.message import Message
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from posthouse.mail.reports.parts import parts_of
from posthouse.mail.reports.report import Unrecognised
from posthouse.model.closed_list import ClosedList

# A report of a busy day has a few hundred kilobytes; what unpacks to more than this is not meant honestly.
_MAX_PACKED = 1 << 20
_MAX_JSON = 8 << 20
_MAX_ENTRIES = 2000
_GZIP = 16 + zlib.MAX_WBITS
_TYPES = ("application/tlsrpt+gzip", "application/tlsrpt+json")


class PolicyType(ClosedList):
    """Which policy a domain's mail was under (RFC 8460 §4.4)."""

    TLSA = "tlsa", "The domain's servers have TLSA records (DANE)."
    STS = "sts", "The domain has an MTA-STS policy."
    NONE = "no-policy-found", "The domain has neither."


class ResultType(ClosedList):
    """What went wrong in a session (RFC 8460 §4.3)."""

    STARTTLS_MISSING = "starttls-not-supported", "The server does not offer STARTTLS."
    HOST_MISMATCH = "certificate-host-mismatch", "The certificate is for other names."
    EXPIRED = "certificate-expired", "The certificate has expired."
    NOT_TRUSTED = "certificate-not-trusted", "No trusted authority signed the certificate."
    VALIDATION = "validation-failure", "Another failure of the policy or of the handshake."
    TLSA_INVALID = "tlsa-invalid", "The certificate matches no TLSA record."
    DNSSEC_INVALID = "dnssec-invalid", "The signatures of the domain's DNS do not hold."
    STS_FETCH = "sts-policy-fetch-error", "The MTA-STS policy could not be fetched."
    STS_INVALID = "sts-policy-invalid", "The MTA-STS policy cannot be read."
    STS_WEBPKI = "sts-webpki-invalid", "The certificate of the MTA-STS web server does not hold."


class TlsFailures(Struct, frozen=True):
    """Sessions that failed in one way at one server. result: a ResultType, or a stranger's word for something else."""

    result: str
    mx_host: str
    sessions: int


class PolicyResults(Struct, frozen=True):
    """The sessions under one policy. policy: its own lines; mx: the host patterns of an MTA-STS policy."""

    kind: str
    domain: str
    policy: tuple[str, ...]
    mx: tuple[str, ...]
    successful: int
    failed: int
    failures: tuple[TlsFailures, ...] = ()


class TlsReport(Struct, frozen=True):
    """What one organisation says about one period. first and last: the period's ends as RFC 3339 text, as reported."""

    organisation: str
    contact: str
    report_id: str
    first: str
    last: str
    policies: tuple[PolicyResults, ...]


def day_report(organisation: str, contact: str, domain: str, day: date, policies: Sequence[PolicyResults]) -> TlsReport:
    """The report about one domain and one day of UTC (RFC 8460 §4.1). contact: an address of ours that people read."""
    first, last = f"{day.isoformat()}T00:00:00Z", f"{day.isoformat()}T23:59:59Z"
    return TlsReport(organisation, contact, f"{day.isoformat()}_{domain}", first, last, tuple(policies))


def render_tls_report(report: TlsReport) -> bytes:
    """The JSON document of RFC 8460 §4.4, not compressed yet."""
    return msgspec.json.encode(
        {
            "organization-name": report.organisation,
            "date-range": {"start-datetime": report.first, "end-datetime": report.last},
            "contact-info": report.contact,
            "report-id": report.report_id,
            "policies": [_rendered(policy) for policy in report.policies],
        }
    )


def parse_tls_report(body: bytes) -> TlsReport | Unrecognised:
    """The report that a stranger's JSON document says; gzip is undone, and everything is capped."""
    if body[:2] == b"\x1f\x8b":
        unpacked = _unpacked(body)
        if isinstance(unpacked, Unrecognised):
            return unpacked
        body = unpacked
    if len(body) > _MAX_JSON:
        return Unrecognised("The TLS report is larger than 8 MiB.")
    try:
        text = _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        return Unrecognised(f"The TLS report is not as RFC 8460 says: {str(error)[:200]}.")
    if sum(1 + len(policy.failure_details) for policy in text.policies) > _MAX_ENTRIES:
        return Unrecognised(f"The TLS report has more than {_MAX_ENTRIES} entries.")
    return TlsReport(
        text.organization_name,
        text.contact_info,
        text.report_id,
        text.date_range.start_datetime,
        text.date_range.end_datetime,
        tuple(_policy(each) for each in text.policies),
    )


def tls_report_in(message: Message) -> TlsReport | Unrecognised | None:
    """The report that a message carries (RFC 8460 §5.3); None where it carries none."""
    for part in parts_of(message):
        if part.get_content_type() in _TYPES:
            body = _body(part)
            return body if isinstance(body, Unrecognised) else parse_tls_report(body)
    return None


class _PolicyText(Struct, frozen=True, rename="kebab"):
    policy_type: Annotated[str, Meta(max_length=40)]
    policy_domain: Annotated[str, Meta(max_length=253)] = ""
    policy_string: list[Annotated[str, Meta(max_length=1000)]] | str = []
    mx_host: list[Annotated[str, Meta(max_length=255)]] | str = []


_Count = Annotated[int, Meta(ge=0, le=1 << 53)]


class _SummaryText(Struct, frozen=True):
    successful: _Count = msgspec.field(name="total-successful-session-count", default=0)
    failed: _Count = msgspec.field(name="total-failure-session-count", default=0)


class _FailureText(Struct, frozen=True, rename="kebab"):
    result_type: Annotated[str, Meta(max_length=80)] = ""
    receiving_mx_hostname: Annotated[str, Meta(max_length=255)] | None = None
    failed_session_count: _Count = 0


class _PolicyResultsText(Struct, frozen=True, rename="kebab"):
    policy: _PolicyText
    summary: _SummaryText = _SummaryText()
    failure_details: list[_FailureText] = []


class _RangeText(Struct, frozen=True, rename="kebab"):
    start_datetime: Annotated[str, Meta(max_length=64)]
    end_datetime: Annotated[str, Meta(max_length=64)]


class _ReportText(Struct, frozen=True, rename="kebab"):
    date_range: _RangeText
    report_id: Annotated[str, Meta(max_length=300)]
    policies: list[_PolicyResultsText]
    organization_name: Annotated[str, Meta(max_length=300)] = ""
    contact_info: Annotated[str, Meta(max_length=300)] = ""


_DECODER = msgspec.json.Decoder(_ReportText)


def _rendered(results: PolicyResults) -> Mapping[str, Any]:
    policy: dict[str, Any] = {"policy-type": results.kind}
    if results.policy:
        policy["policy-string"] = results.policy
    policy["policy-domain"] = results.domain
    if results.mx:
        policy["mx-host"] = results.mx
    rendered: dict[str, Any] = {
        "policy": policy,
        "summary": {
            "total-successful-session-count": results.successful,
            "total-failure-session-count": results.failed,
        },
    }
    if results.failures:
        rendered["failure-details"] = [
            {
                "result-type": failure.result,
                "receiving-mx-hostname": failure.mx_host,
                "failed-session-count": failure.sessions,
            }
            for failure in results.failures
        ]
    return rendered


def _policy(text: _PolicyResultsText) -> PolicyResults:
    policy = text.policy
    return PolicyResults(
        policy.policy_type,
        policy.policy_domain.lower(),
        _several(policy.policy_string),
        _several(policy.mx_host),
        text.summary.successful,
        text.summary.failed,
        tuple(
            TlsFailures(each.result_type, (each.receiving_mx_hostname or "").lower(), each.failed_session_count)
            for each in text.failure_details
        ),
    )


def _several(value: list[str] | str) -> tuple[str, ...]:
    # Google and others send one text where the RFC asks for a list.
    return (value[:1000],) if isinstance(value, str) else tuple(value)


def _unpacked(body: bytes) -> bytes | Unrecognised:
    if len(body) > _MAX_PACKED:
        return Unrecognised("The packed TLS report is larger than 1 MiB.")
    unpacker = zlib.decompressobj(_GZIP)
    try:
        unpacked = unpacker.decompress(body, _MAX_JSON)
    except zlib.error as error:
        return Unrecognised(f"The TLS report is not gzip: {error}.")
    if unpacker.unconsumed_tail:
        return Unrecognised("The TLS report unpacks to more than 8 MiB.")
    return unpacked if unpacker.eof else Unrecognised("The TLS report's gzip data ends too early.")


def _body(part: Message) -> bytes | Unrecognised:
    payload = part.get_payload()
    if not isinstance(payload, str):
        return Unrecognised("The TLS report's part holds other parts.")
    if str(part.get("Content-Transfer-Encoding", "")).strip().lower() != "base64":
        decoded = part.get_payload(decode=True)
        return decoded if isinstance(decoded, bytes) else b""
    try:
        return b64decode(re.sub(r"\s+", "", payload), validate=True)
    except (binascii.Error, ValueError):
        return Unrecognised("The TLS report's base64 is broken, or the message was cut.")
