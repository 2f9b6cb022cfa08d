"""The settings of a relay source: what may stand in a source's `settings`, with credentials sealed under the master key.

A flow hands in how to seal and to open: this room never sees the master key, and nobody else sees what it sealed.
"""

from __future__ import annotations

import base64
import binascii
import ipaddress
from collections.abc import Callable, Mapping
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Struct

from posthouse.delivery.relay import Relay
from posthouse.model.closed_list import ClosedList
from posthouse.model.errors import SettingWrong

Seal = Callable[[bytes, str], bytes]
_SEALED = "sealed"


class RelayKind(ClosedList):
    """The kinds of source that are not an address of our own."""

    SMTP = "smtp", "A smarthost that takes mail over SMTP."
    SES = "ses", "Amazon SES, over its API of version 2."
    SENDGRID = "sendgrid", "SendGrid, over its API of version 3."
    MAILGUN = "mailgun", "Mailgun, over its API of version 3."


class Secret:
    """A password or key: whoever prints it sees nothing."""

    __slots__ = ("value",)

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and other.value == self.value

    def __hash__(self) -> int:
        return hash(self.value)


_Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]+$")]
_Region = Annotated[str, Meta(pattern=r"^[a-z]{2}(-[a-z0-9]+)+-[0-9]+$")]
_Host = Annotated[
    str,
    Meta(
        pattern=r"^([A-Za-z0-9_]([A-Za-z0-9_-]*[A-Za-z0-9])?\.)*[A-Za-z0-9]([A-Za-z0-9-]*[A-Za-z0-9])?$|^\[?[0-9A-Fa-f:]+\]?$"
    ),
]
_Parallel = Annotated[int, Meta(ge=1, le=500)]


class SesSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """endpoint: empty for Amazon's own in this region. bounces_to_return_path: the return path's domain must be proved to SES too."""

    region: _Region
    access_key_id: Annotated[str, Meta(pattern=r"^[A-Za-z0-9]{16,128}$")]
    secret_access_key: Secret
    session_token: Secret | None = None
    endpoint: str = ""
    configuration_set: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{0,64}$")] = ""
    bounces_to_return_path: bool = True
    parallel: _Parallel = 10


class SendgridSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """subuser: act for this one; ip_pool: send from this pool of the account's own addresses."""

    api_key: Secret
    endpoint: str = "https://api.sendgrid.com"
    subuser: Annotated[str, Meta(pattern=r"^[!-~]{0,64}$")] = ""
    ip_pool: Annotated[str, Meta(pattern=r"^$|^.{2,64}$")] = ""
    parallel: _Parallel = 10


class MailgunSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """domain: the account's sending domain. require_tls: Mailgun must encrypt on its way to the recipient."""

    domain: _Host
    api_key: Secret
    endpoint: str = "https://api.mailgun.net"
    require_tls: bool = False
    parallel: _Parallel = 10


class SmtpSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """implicit_tls: TLS from the first byte (port 465) instead of STARTTLS."""

    host: _Host
    port: Annotated[int, Meta(ge=1, le=65535)] = 587
    implicit_tls: bool = False
    user: str | None = None
    password: Secret | None = None

    def relay(self) -> Relay:
        """As the dialler knows a smarthost."""
        password = None if self.password is None else self.password.value
        return Relay(self.host, self.port, self.implicit_tls, self.user, password)


RelaySettings = SesSettings | SendgridSettings | MailgunSettings | SmtpSettings

_KINDS: dict[RelayKind, tuple[type[Any], frozenset[str]]] = {
    RelayKind.SES: (SesSettings, frozenset(("secret_access_key", "session_token"))),
    RelayKind.SENDGRID: (SendgridSettings, frozenset(("api_key",))),
    RelayKind.MAILGUN: (MailgunSettings, frozenset(("api_key",))),
    RelayKind.SMTP: (SmtpSettings, frozenset(("password",))),
}


def parse_settings(kind: RelayKind, given: Mapping[str, object], source: str) -> RelaySettings:
    """Settings with their secrets in the open, checked. source: the source's name, for the sentence. Raises SettingWrong."""
    model, _ = _KINDS[kind]
    try:
        settings: RelaySettings = msgspec.convert(dict(given), model, dec_hook=_secret)
    except msgspec.ValidationError as error:
        raise SettingWrong(f"The {kind} settings of source “{source}” cannot be used: {error}.") from error
    if isinstance(settings, SmtpSettings):
        if (settings.user is None) != (settings.password is None):
            raise SettingWrong(f"The smtp settings of source “{source}” need both user and password, or neither.")
    elif settings.endpoint:
        _check_endpoint(settings.endpoint, source)
    return settings


def seal_settings(kind: RelayKind, given: Mapping[str, object], source: str, seal: Seal) -> dict[str, object]:
    """Settings as they are stored: checked, the secrets sealed together for this source. Raises SettingWrong.

    seal: MasterKey.seal. The context is the source's name, so that a sealed secret opens for no other source.
    """
    parse_settings(kind, given, source)
    secret_names = _KINDS[kind][1]
    secrets = {name: value for name, value in given.items() if name in secret_names and value is not None}
    stored = {name: value for name, value in given.items() if name not in secret_names}
    if secrets:
        stored[_SEALED] = base64.b64encode(seal(msgspec.json.encode(secrets), _context(source))).decode()
    return stored


def open_settings(kind: RelayKind, stored: Mapping[str, object], source: str, unseal: Seal) -> RelaySettings:
    """What `seal_settings` stored, opened and checked. unseal: MasterKey.open. Raises SettingWrong, and KeyWrong from `unseal`."""
    given = dict(stored)
    sealed = given.pop(_SEALED, None)
    if sealed is not None:
        try:
            box = base64.b64decode(sealed if isinstance(sealed, str) else "", validate=True)
            given |= msgspec.json.decode(unseal(box, _context(source)), type=dict[str, object])
        except (binascii.Error, msgspec.DecodeError) as error:
            raise SettingWrong(
                f"The sealed settings of source “{source}” are damaged: enter its credentials again."
            ) from error
    return parse_settings(kind, given, source)


def _context(source: str) -> str:
    return f"relay source {source}"


def _secret(wanted: type, given: object) -> object:
    if (
        wanted is not Secret
        or not isinstance(given, str)
        or not given
        or not given.isprintable()
        or not given.isascii()
    ):
        raise ValueError("a secret must be printable ASCII text and not empty")
    return Secret(given)


def _check_endpoint(endpoint: str, source: str) -> None:
    """Credentials and messages go over TLS; only a test on this machine may do without."""
    try:
        parts = urlsplit(endpoint)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.path.strip("/") or parts.query or parts.fragment or parts.username or parts.password:
        raise SettingWrong(
            f"The endpoint of source “{source}” must be scheme, host and perhaps port, such as https://api.example.com."
        )
    if parts.scheme != "https" and not (parts.scheme == "http" and _is_loopback(host)):
        raise SettingWrong(f"The endpoint of source “{source}” must begin with https://.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
