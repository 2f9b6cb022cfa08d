"""TLS reports (RFC 8460): ours as the RFC has them, strangers' as they come."""

from __future__ import annotations

import gzip
import json
import re
from base64 import encodebytes
from datetime import date
from email import message_from_bytes
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.reports.report import Unrecognised
from posthouse.mail.reports.tls_report import (
    PolicyResults,
    TlsFailures,
    TlsReport,
    day_report,
    parse_tls_report,
    render_tls_report,
    tls_report_in,
)

STS = PolicyResults(
    "sts",
    "example.com",
    ("version: STSv1", "mode: testing", "mx: mx.example.com", "max_age: 86400"),
    ("mx.example.com",),
    5326,
    303,
    (
        TlsFailures("certificate-expired", "mx.example.com", 100),
        TlsFailures("starttls-not-supported", "mx2.example.com", 203),
    ),
)
NONE = PolicyResults("no-policy-found", "example.com", (), (), 3, 0)
REPORT = day_report("Sender Inc.", "tls@sender.test", "example.com", date(2026, 11, 24), [STS, NONE])


def test_our_report_is_as_the_rfc_has_it() -> None:
    """RFC 8460 §4.4 and its appendix B."""
    assert json.loads(render_tls_report(REPORT)) == {
        "organization-name": "Sender Inc.",
        "date-range": {"start-datetime": "2026-11-24T00:00:00Z", "end-datetime": "2026-11-24T23:59:59Z"},
        "contact-info": "tls@sender.test",
        "report-id": "2026-11-24_example.com",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": ["version: STSv1", "mode: testing", "mx: mx.example.com", "max_age: 86400"],
                    "policy-domain": "example.com",
                    "mx-host": ["mx.example.com"],
                },
                "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
                "failure-details": [
                    {
                        "result-type": "certificate-expired",
                        "receiving-mx-hostname": "mx.example.com",
                        "failed-session-count": 100,
                    },
                    {
                        "result-type": "starttls-not-supported",
                        "receiving-mx-hostname": "mx2.example.com",
                        "failed-session-count": 203,
                    },
                ],
            },
            {
                "policy": {"policy-type": "no-policy-found", "policy-domain": "example.com"},
                "summary": {"total-successful-session-count": 3, "total-failure-session-count": 0},
            },
        ],
    }


@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_we_write_we_read(pack: Any) -> None:
    assert parse_tls_report(pack(render_tls_report(REPORT))) == REPORT


def test_the_words_of_a_stranger_are_kept() -> None:
    document = json.loads(render_tls_report(REPORT))
    policy = document["policies"][0]
    policy["policy"] |= {"policy-string": "version: STSv1", "mx-host": "MX.example.com", "policy-domain": "EXAMPLE.com"}
    policy["failure-details"] = [
        {
            "result-type": "made-up",
            "receiving-mx-hostname": None,
            "failed-session-count": 1,
            "receiving-ip": "192.0.2.1",
        }
    ]
    read = parse_tls_report(json.dumps(document).encode())
    assert isinstance(read, TlsReport)
    (first, _) = read.policies
    assert (first.policy, first.mx, first.domain) == (("version: STSv1",), ("MX.example.com",), "example.com")
    assert first.failures == (TlsFailures("made-up", "", 1),)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "is not as RFC 8460 says"),
        (b"[]", "is not as RFC 8460 says"),
        (b"[" * 100_000, "is not as RFC 8460 says"),
        (b"\xff", "is not as RFC 8460 says"),
        (render_tls_report(REPORT).replace(b"5326", b"-1"), r"is not as RFC 8460 says: .*policies\[0\]"),
        (render_tls_report(REPORT).replace(b"5326", b"1e400"), "is not as RFC 8460 says"),
        (render_tls_report(REPORT).replace(b"Sender Inc.", b"x" * 301), "is not as RFC 8460 says"),
        (b" " * (8 << 20) + b"{}", "larger than 8 MiB"),
        (gzip.compress(b" " * (9 << 20)), "unpacks to more than 8 MiB"),
        (b"\x1f\x8b" + bytes(1 << 20), "larger than 1 MiB"),
        (gzip.compress(render_tls_report(REPORT))[:-9], "ends too early"),
        (b"\x1f\x8b\x09junkjunkjunk", "is not gzip"),
        (
            render_tls_report(day_report("a", "b", "c", date(2026, 1, 1), [NONE] * 2001)),
            "more than 2000 entries",
        ),
    ],
)
def test_what_is_no_report_says_why(body: bytes, reason: str) -> None:
    read = parse_tls_report(body)
    assert isinstance(read, Unrecognised)
    assert re.search(reason, read.reason), read.reason


def message(kind: str, body: bytes, encoding: str = "base64") -> Any:
    content = encodebytes(body) if encoding == "base64" else body
    return message_from_bytes(
        b"Content-Type: multipart/report; report-type=tlsrpt; boundary=b\n\n--b\nContent-Type: text/plain\n\nwords\n"
        + f"--b\nContent-Type: {kind}\nContent-Transfer-Encoding: {encoding}\n\n".encode()
        + content
        + b"\n--b--\n"
    )


def test_a_report_is_found_in_its_message() -> None:
    body = render_tls_report(REPORT)
    assert tls_report_in(message("application/tlsrpt+gzip", gzip.compress(body))) == REPORT
    assert tls_report_in(message("application/tlsrpt+json", body)) == REPORT
    assert tls_report_in(message("application/tlsrpt+json", body, "8bit")) == REPORT
    assert tls_report_in(message("application/json", body)) is None
    cut = tls_report_in(_cut(body))
    assert isinstance(cut, Unrecognised)
    assert "base64 is broken" in cut.reason


def _cut(body: bytes) -> Any:
    whole = message("application/tlsrpt+gzip", gzip.compress(body))
    part = whole.get_payload()[1]
    part.set_payload(part.get_payload()[:-3].rstrip("=\n") + "\n")
    return whole


def test_a_report_as_it_was_received(corpora: Path) -> None:
    (file,) = (corpora / "reports" / "tlsrpt").glob("*google*.eml")
    read = tls_report_in(message_from_bytes(file.read_bytes()))
    assert isinstance(read, TlsReport)
    assert read.organisation == "Google Inc."
    assert read.first == "2024-09-03T00:00:00Z"
    assert {policy.domain for policy in read.policies} == {"cardinalhealth.ca"}
    assert sum(policy.successful + policy.failed for policy in read.policies) > 0


@given(
    st.recursive(
        st.none() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["policies", "policy", "summary", "date-range", "report-id", "failure-details"]),
                inner,
                max_size=4,
            )
        ),
    )
)
def test_no_document_raises(document: Any) -> None:
    body = json.dumps(document).encode()
    assert isinstance(parse_tls_report(body), TlsReport | Unrecognised)
    assert isinstance(parse_tls_report(gzip.compress(body)), TlsReport | Unrecognised)


@given(st.binary(max_size=200))
def test_no_bytes_raise(body: bytes) -> None:
    assert isinstance(parse_tls_report(body), Unrecognised)
    assert isinstance(parse_tls_report(b"\x1f\x8b" + body), Unrecognised)
