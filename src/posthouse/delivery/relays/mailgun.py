"""Mailgun: POST /v3/DOMAIN/messages.mime, the message as it is, in a multipart form (Mailgun's published API description)."""

from __future__ import annotations

import base64
import secrets
from datetime import datetime
from urllib.parse import quote

from posthouse.delivery.relays.api import ApiReply
from posthouse.delivery.relays.dialect import CannotCarry, Request, json_object, one_line
from posthouse.delivery.relays.quota import Quota
from posthouse.delivery.relays.settings import MailgunSettings
from posthouse.model.messages import Composed

# Links and opens are ours already; a second tracker would only break the signature.
_OPTIONS = (("o:tracking", "no"), ("o:tracking-clicks", "no"), ("o:tracking-opens", "no"))


class MailgunDialect:
    """Mailgun for one of an account's sending domains."""

    kind = "mailgun"
    name = "Mailgun"
    # Mailgun's documentation: 25 MB for a message with its attachments.
    largest = 25 * 1000 * 1000

    def __init__(self, settings: MailgunSettings) -> None:
        self._path = f"/v3/{quote(settings.domain, safe='.-')}/messages.mime"
        self._authorization = "Basic " + base64.b64encode(f"api:{settings.api_key.value}".encode()).decode()
        options = (*_OPTIONS, *((("o:require-tls", "yes"),) if settings.require_tls else ()))
        self._options = options

    def send_request(self, message: Composed, at: datetime) -> Request | CannotCarry:
        """The envelope's recipient and the message as a file."""
        boundary = secrets.token_hex(24)
        parts = [_field(boundary, name, value) for name, value in (("to", message.recipient), *self._options)]
        body = b"".join(
            [
                *parts,
                f"--{boundary}\r\n".encode(),
                b'Content-Disposition: form-data; name="message"; filename="message.eml"\r\n',
                b"Content-Type: application/octet-stream\r\n\r\n",
                message.content,
                f"\r\n--{boundary}--\r\n".encode(),
            ]
        )
        headers = {
            "Authorization": self._authorization,
            "Content-Type": f"multipart/form-data; boundary={boundary}",
        }
        return Request("POST", self._path, headers, body)

    def receipt(self, reply: ApiReply) -> str | None:
        """The id of a 200: a Message-ID in angle brackets."""
        name = json_object(reply.body).get("id") if reply.status == 200 else None
        return one_line(name) if isinstance(name, str) and name else None

    def refusal(self, reply: ApiReply) -> tuple[str | None, str]:
        """A JSON object with a message, or (401) a bare word."""
        text = json_object(reply.body).get("message")
        return None, one_line(text if isinstance(text, str) else reply.body.decode("utf-8", "replace"))

    def quota_request(self, at: datetime) -> Request | None:
        """Mailgun tells its limits only when they are passed."""
        return None

    def quota(self, reply: ApiReply) -> Quota | None:
        """Never asked for."""
        return None


def _field(boundary: str, name: str, value: str) -> bytes:
    return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
