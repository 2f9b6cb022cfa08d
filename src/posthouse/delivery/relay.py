"""A smarthost that takes everything: `delivery.relay = "smtp://user:password@host:587"`."""

from __future__ import annotations

from urllib.parse import unquote, urlsplit

from msgspec import Struct

from posthouse.model.errors import SettingWrong


class Relay(Struct, frozen=True):
    """Where everything goes instead of to the recipients' own servers. implicit_tls: smtps://, TLS from the first byte."""

    host: str
    port: int
    implicit_tls: bool
    user: str | None = None
    password: str | None = None


def parse_relay(url: str) -> Relay | None:
    """The relay of a URL; None for an empty one. Raises SettingWrong."""
    if not url:
        return None
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise SettingWrong(
            f"delivery.relay is not a URL of the form smtp://user:password@host:587 ({error})."
        ) from error
    if parts.scheme not in ("smtp", "smtps") or not host or parts.path.strip("/") or parts.query:
        raise SettingWrong("delivery.relay is not a URL of the form smtp://user:password@host:587.")
    implicit = parts.scheme == "smtps"
    return Relay(
        host=host,
        port=port or (465 if implicit else 587),
        implicit_tls=implicit,
        user=unquote(parts.username) if parts.username else None,
        password=unquote(parts.password) if parts.password is not None else None,
    )
