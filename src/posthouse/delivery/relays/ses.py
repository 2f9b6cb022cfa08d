"""Amazon SES v2: SendEmail with the raw message (API_SendEmail), and the account's limits (API_GetAccount)."""

from __future__ import annotations

import base64
import re
from datetime import datetime

import msgspec

from posthouse.delivery.relays.api import ApiReply
from posthouse.delivery.relays.dialect import CannotCarry, Request, json_object, one_line
from posthouse.delivery.relays.quota import Quota
from posthouse.delivery.relays.settings import SesSettings
from posthouse.mail import sigv4
from posthouse.model.messages import Composed

_SEND = "/v2/email/outbound-emails"
_ACCOUNT = "/v2/email/account"
# SES writes Date and Message-ID anew, so a signature over them is broken on arrival, and it takes one DKIM-Signature at most; it signs
# for a domain that the account has proved (Easy DKIM or a key of one's own).
_SIGNATURE = re.compile(rb"^DKIM-Signature[ \t]*:[^\n]*\n(?:[ \t][^\n]*\n)*", re.IGNORECASE | re.MULTILINE)


class SesDialect:
    """SES in one region, for one account."""

    kind = "ses"
    name = "Amazon SES"
    # Amazon SES quotas: 40 MB for a message over the v2 API.
    largest = 40 * 1024 * 1024

    def __init__(self, settings: SesSettings, endpoint: str) -> None:
        """endpoint: where the requests go; the signature covers its host."""
        self._settings = settings
        self._endpoint = endpoint
        token = None if settings.session_token is None else settings.session_token.value
        self._credentials = sigv4.Credentials(settings.access_key_id, settings.secret_access_key.value, token)

    def send_request(self, message: Composed, at: datetime) -> Request | CannotCarry:
        """SendEmail to the envelope's recipient alone. Bounces go to our return path where its domain is proved to SES too."""
        body: dict[str, object] = {
            "Destination": {"ToAddresses": [message.recipient]},
            "Content": {"Raw": {"Data": base64.b64encode(_unsigned(message.content)).decode()}},
        }
        if self._settings.bounces_to_return_path:
            body["FeedbackForwardingEmailAddress"] = message.return_path
        if self._settings.configuration_set:
            body["ConfigurationSetName"] = self._settings.configuration_set
        return self._signed("POST", _SEND, msgspec.json.encode(body), at)

    def receipt(self, reply: ApiReply) -> str | None:
        """MessageId of a 200."""
        name = json_object(reply.body).get("MessageId") if reply.status == 200 else None
        return one_line(name) if isinstance(name, str) and name else None

    def refusal(self, reply: ApiReply) -> tuple[str | None, str]:
        """The error's name stands in a header field, with an address behind a colon, or in the body behind a "#"."""
        said = json_object(reply.body)
        name = reply.headers.get("x-amzn-errortype") or said.get("__type") or said.get("code")
        text = said.get("message") or said.get("Message")
        error = one_line(name).partition(":")[0].rpartition("#")[2] if isinstance(name, str) else None
        return error or None, one_line(text if isinstance(text, str) else reply.body.decode("utf-8", "replace"))

    def quota_request(self, at: datetime) -> Request | None:
        """GetAccount."""
        return self._signed("GET", _ACCOUNT, b"", at)

    def quota(self, reply: ApiReply) -> Quota | None:
        """MaxSendRate, Max24HourSend (-1: no limit) and SentLast24Hours, and whether the account may send at all."""
        try:
            account = msgspec.json.decode(reply.body, type=_Account)
        except (msgspec.DecodeError, RecursionError):
            return None
        if reply.status != 200 or account.quota is None:
            return None
        limits = account.quota
        return Quota(
            per_second=max(0.0, limits.per_second),
            per_day=None if limits.per_day < 0 else limits.per_day,
            sent=max(0.0, limits.sent),
            may_send=account.sending,
            obstacle=_obstacle(account),
        )

    def _signed(self, method: str, path: str, body: bytes, at: datetime) -> Request:
        headers = {"Content-Type": "application/json"} if body else {}
        signature = sigv4.sign(
            method, self._endpoint + path, headers, body, self._credentials, self._settings.region, "ses", at
        )
        return Request(method, path, {**headers, **signature}, body)


class _Limits(
    msgspec.Struct, rename={"per_second": "MaxSendRate", "per_day": "Max24HourSend", "sent": "SentLast24Hours"}
):
    per_second: float
    per_day: float
    sent: float


class _Account(
    msgspec.Struct,
    rename={
        "quota": "SendQuota",
        "sending": "SendingEnabled",
        "production": "ProductionAccessEnabled",
        "enforcement": "EnforcementStatus",
    },
):
    quota: _Limits | None = None
    sending: bool = True
    production: bool = True
    enforcement: str = "HEALTHY"


def _obstacle(account: _Account) -> str | None:
    if not account.sending:
        return "Amazon SES has paused this account's sending."
    if account.enforcement != "HEALTHY":
        return f"Amazon SES has this account under review ({one_line(account.enforcement)})."
    if not account.production:
        return "The account is in Amazon's test mode: it may write only to addresses that it has proved."
    return None


def _unsigned(content: bytes) -> bytes:
    end = content.find(b"\r\n\r\n")
    head, rest = (content, b"") if end < 0 else (content[: end + 2], content[end + 2 :])
    return _SIGNATURE.sub(b"", head) + rest
