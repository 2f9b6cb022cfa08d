"""SendGrid: POST /v3/mail/send. It takes no raw message: `decomposition` says what of ours it can carry (SendGrid's API description)."""

from __future__ import annotations

from datetime import datetime

import msgspec

from posthouse.delivery.relays.api import ApiReply
from posthouse.delivery.relays.decomposition import decomposed
from posthouse.delivery.relays.dialect import CannotCarry, Request, json_object, one_line
from posthouse.delivery.relays.quota import Quota
from posthouse.delivery.relays.settings import SendgridSettings
from posthouse.model.messages import Composed

# Links, opens and unsubscription are ours already.
_NO_TRACKING = {
    "click_tracking": {"enable": False, "enable_text": False},
    "open_tracking": {"enable": False},
    "subscription_tracking": {"enable": False},
    "ganalytics": {"enable": False},
}


class SendgridDialect:
    """SendGrid for one account or subuser."""

    kind = "sendgrid"
    name = "SendGrid"
    # SendGrid's documentation: 30 MB for a message with its attachments.
    largest = 30 * 1000 * 1000

    def __init__(self, settings: SendgridSettings) -> None:
        self._headers = {
            "Authorization": f"Bearer {settings.api_key.value}",
            "Content-Type": "application/json",
            **({"On-Behalf-Of": settings.subuser} if settings.subuser else {}),
        }
        self._ip_pool = settings.ip_pool

    def send_request(self, message: Composed, at: datetime) -> Request | CannotCarry:
        """The message taken apart, for its one recipient."""
        form = decomposed(message)
        if isinstance(form, CannotCarry):
            return form
        form["tracking_settings"] = _NO_TRACKING
        if self._ip_pool:
            form["ip_pool_name"] = self._ip_pool
        return Request("POST", "/v3/mail/send", self._headers, msgspec.json.encode(form))

    def receipt(self, reply: ApiReply) -> str | None:
        """202, with the name in a header field."""
        return one_line(reply.headers.get("x-message-id", "")) if reply.status == 202 else None

    def refusal(self, reply: ApiReply) -> tuple[str | None, str]:
        """Every error of the list, each behind the field that it is about."""
        try:
            said = msgspec.convert(json_object(reply.body).get("errors"), list[_Error])
        except msgspec.ValidationError:
            return None, one_line(reply.body.decode("utf-8", "replace"))
        texts = [f"{e.field}: {e.message}" if e.field and e.field != "null" else e.message for e in said]
        return None, one_line("; ".join(texts))

    def quota_request(self, at: datetime) -> Request | None:
        """SendGrid tells its limits only when they are passed."""
        return None

    def quota(self, reply: ApiReply) -> Quota | None:
        """Never asked for."""
        return None


class _Error(msgspec.Struct):
    message: str = ""
    field: str | None = None
