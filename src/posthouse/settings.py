"""Every setting once: name, type, what is allowed, default, one sentence. The file, the environment and the manual are made from this."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import msgspec
from msgspec import Meta, Struct

from posthouse.model.errors import SettingWrong

_ENVIRONMENT_PREFIX = "POSTHOUSE_"
# Told to the program before any setting is read, by name; not settings of the file.
_ENVIRONMENT_OTHERS = frozenset({"POSTHOUSE_DATA", "POSTHOUSE_SECRET_KEY_FILE"})


class DatabaseSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Where PostgreSQL is."""

    url: Annotated[
        str, Meta(description="Address of your own PostgreSQL 15 to 18; empty: Posthouse runs one itself.")
    ] = ""
    bin_directory: Annotated[str, Meta(description="Folder of initdb and postgres; empty: they are found.")] = ""


class PublicSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The door that recipients reach: opens, clicks, unsubscribes."""

    url: Annotated[
        str,
        Meta(pattern=r"^https?://[^/\s]+$", description="What links in messages begin with; one-click needs https."),
    ] = "https://mail.example.com"
    listen: Annotated[str, Meta(pattern=r"^\S+:\d+$", description="Address and port of the web door.")] = (
        "127.0.0.1:8026"
    )
    tls_certificate: Annotated[str, Meta(description="PEM file; empty: a proxy in front does HTTPS.")] = ""
    tls_key: Annotated[str, Meta(description="PEM file of the certificate's key.")] = ""


class InboundSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The door that hears bounces and complaints."""

    listen: Annotated[
        str,
        Meta(pattern=r"^\S+:\d+$", description="Address and port of the SMTP door; port 25 must lead here."),
    ] = "127.0.0.1:2525"
    max_megabytes: Annotated[int, Meta(ge=1, le=100, description="Largest message taken in.")] = 10


class SenderSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """Who sends."""

    postal_address: Annotated[
        str, Meta(max_length=300, description="Your postal address, which the law asks for in every marketing message.")
    ] = ""
    ehlo_name: Annotated[
        str,
        Meta(
            pattern=r"^([A-Za-z0-9-]+\.)*[A-Za-z0-9-]+$|^$",
            description="Name in EHLO; it must resolve to the sending IP (SMTP-8).",
        ),
    ] = ""
    bounce_subdomain: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$",
            description="Return paths are at this name under the From domain.",
        ),
    ] = "bounces"
    ed25519: Annotated[bool, Meta(description="Add an Ed25519 DKIM signature beside the RSA one.")] = False


class DnsSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How names are looked up."""

    nameservers: Annotated[
        list[Annotated[str, Meta(pattern=r"^[0-9A-Fa-f.:\[\]]+$")]],
        Meta(description="IP addresses, with :port where it is not 53; empty: those of the system."),
    ] = []
    timeout_seconds: Annotated[float, Meta(gt=0, le=60, description="Longest wait for one answer.")] = 10.0
    validating: Annotated[
        bool,
        Meta(
            description="The name servers validate DNSSEC, and nobody sits between them and this host; without it DANE is off."
        ),
    ] = False


class DeliverySettings(Struct, frozen=True, forbid_unknown_fields=True):
    """How messages leave."""

    port: Annotated[
        int, Meta(ge=1, le=65535, description="Port of the receiving servers; only a test network has another than 25.")
    ] = 25
    relay: Annotated[
        str,
        Meta(
            pattern=r"^$|^smtps?://\S+$",
            description="Smarthost for everything, smtp://user:password@host:587; empty: deliver by MX.",
        ),
    ] = ""
    senders: Annotated[int, Meta(ge=0, le=256, description="Sender processes; 0: one per core.")] = 0
    connections_per_site: Annotated[
        int, Meta(ge=1, le=1000, description="Connections to one mailbox provider, all senders together.")
    ] = 10
    messages_per_connection: Annotated[
        int, Meta(ge=1, le=100000, description="Messages before a connection is closed.")
    ] = 100
    messages_per_second: Annotated[
        float, Meta(ge=0, le=1e6, description="To one mailbox provider from one source, at most; 0: no limit.")
    ] = 100.0
    life_hours: Annotated[
        float, Meta(gt=0, le=720, description="How long a message is tried before it is given up (SMTP-3).")
    ] = 120.0
    in_flight_minutes: Annotated[
        float, Meta(ge=1, le=1440, description="When a claimed message of a dead sender falls due again.")
    ] = 45.0
    first_retry_minutes: Annotated[
        float, Meta(gt=0, le=1440, description="First retry after a plain deferral (SMTP-2).")
    ] = 30.0
    longest_retry_minutes: Annotated[float, Meta(gt=0, le=10080, description="Longest pause between two tries.")] = (
        480.0
    )
    connect_seconds: Annotated[float, Meta(gt=0, le=600, description="Time-out of a connection attempt.")] = 30.0
    greeting_seconds: Annotated[float, Meta(gt=0, le=3600, description="Time-out of the greeting (SMTP-1).")] = 300.0
    command_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="Time-out of EHLO, MAIL, RCPT and DATA (SMTP-1).")
    ] = 300.0
    block_seconds: Annotated[float, Meta(gt=0, le=3600, description="Time-out of one block of content (SMTP-1).")] = (
        180.0
    )
    final_dot_seconds: Annotated[
        float, Meta(gt=0, le=3600, description="Time-out after the final dot; lower risks doubles (SMTP-1).")
    ] = 600.0
    allow_private_addresses: Annotated[
        bool, Meta(description="Deliver to loopback and private addresses; for test networks only.")
    ] = False
    require_tls: Annotated[bool, Meta(description="Defer instead of sending in the clear.")] = False
    mta_sts: Annotated[bool, Meta(description="Keep to the MTA-STS policies of recipient domains (RFC 8461).")] = True
    mta_sts_port: Annotated[
        int, Meta(ge=1, le=65535, description="Port of policy web servers; only a test network has another than 443.")
    ] = 443
    tls_reports: Annotated[
        bool, Meta(description="Count TLS sessions for domains that have a policy and want reports (RFC 8460).")
    ] = True

    @property
    def longest_transaction(self) -> float:
        """Seconds that one message may take from MAIL to the answer to its final dot (SMTP-1)."""
        return 3 * self.command_seconds + self.block_seconds + self.final_dot_seconds


class JournalSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """The outcome journal of each sender."""

    keep_days: Annotated[int, Meta(ge=1, le=90, description="How long segments are kept for a restore.")] = 7
    segment_megabytes: Annotated[int, Meta(ge=1, le=1024, description="Size of one preallocated segment.")] = 16


class LogSettings(Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged."""

    level: Annotated[
        str, Meta(pattern=r"^(debug|info|warning|error)$", description="debug, info, warning or error.")
    ] = "info"
    mask_addresses: Annotated[bool, Meta(description="Show addresses as a…@example.com in logs.")] = True


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """All settings of one installation."""

    database: DatabaseSettings = DatabaseSettings()
    public: PublicSettings = PublicSettings()
    inbound: InboundSettings = InboundSettings()
    sender: SenderSettings = SenderSettings()
    dns: DnsSettings = DnsSettings()
    delivery: DeliverySettings = DeliverySettings()
    journal: JournalSettings = JournalSettings()
    log: LogSettings = LogSettings()


def load_settings(file: Path | None, environment: Mapping[str, str] = os.environ) -> Settings:
    """The settings of a TOML file, overridden by POSTHOUSE_SECTION_NAME in the environment.

    Raises SettingWrong with the setting's name, the value and what is allowed.
    """
    given: dict[str, Any] = {}
    if file is not None and file.exists():
        try:
            given = tomllib.loads(file.read_text(encoding="utf-8"))
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise SettingWrong(f"{file} is not valid TOML: {error}.") from error
    _refuse_unknown(given, str(file))
    _add_environment(given, environment)
    sections: dict[str, Any] = {name: _section(name, kind, given.get(name, {})) for name, kind in _sections().items()}
    settings = Settings(**sections)
    _check_together(settings)
    return settings


def settings_file(settings: Settings = Settings()) -> str:  # noqa: B008 -- frozen
    """A commented posthouse.toml; what is at its default is commented out, so that a later default can improve."""
    lines = [
        "# Settings of Posthouse. Every line can also be set in the environment:",
        "# [delivery] port is POSTHOUSE_DELIVERY_PORT. `posthouse settings` shows what is in force.",
    ]
    for name, kind in _sections().items():
        lines += ["", f"[{name}]  # {(kind.__doc__ or '').strip()}"]
        defaults, section = kind(), getattr(settings, name)
        for field, (_, meta) in _fields(kind).items():
            value = getattr(section, field)
            mark = "# " if value == getattr(defaults, field) else ""
            lines += [f"# {meta.description}", f"{mark}{field} = {_toml(value)}"]
    return "\n".join(lines) + "\n"


def setting_rows(settings: Settings) -> list[tuple[str, Any, str]]:
    """(name, value in force, sentence) of every setting."""
    return [
        (f"{name}.{field}", getattr(getattr(settings, name), field), meta.description or "")
        for name, kind in _sections().items()
        for field, (_, meta) in _fields(kind).items()
    ]


def _sections() -> dict[str, type[Struct]]:
    return get_type_hints(Settings)


def _fields(kind: type[Struct]) -> dict[str, tuple[Any, Meta]]:
    found = {}
    for name, hint in get_type_hints(kind, include_extras=True).items():
        assert get_origin(hint) is Annotated
        _, meta = get_args(hint)
        found[name] = (hint, meta)
    return found


def _section(name: str, kind: type[Struct], values: Any) -> Struct:
    if not isinstance(values, dict):
        raise SettingWrong(f"[{name}] must be a table of settings, not {values!r}.")
    checked = {}
    for field, (hint, meta) in _fields(kind).items():
        if field not in values:
            continue
        try:
            checked[field] = msgspec.convert(values[field], hint, strict=False)
        except msgspec.ValidationError as error:
            reason = str(error).removesuffix(" - at `$`")
            raise SettingWrong(
                f"{name}.{field} = {values[field]!r} is not allowed: {reason}. ({meta.description})"
            ) from error
    return kind(**checked)


def _refuse_unknown(given: dict[str, Any], where: str) -> None:
    for name, values in given.items():
        kind = _sections().get(name)
        if kind is None:
            raise SettingWrong(
                f"{where} has a section [{name}], which there is not; there are {', '.join(_sections())}."
            )
        for field in values if isinstance(values, dict) else ():
            if field not in _fields(kind):
                raise SettingWrong(
                    f"{where} sets {name}.{field}, which there is not; [{name}] has {', '.join(_fields(kind))}."
                )


def _add_environment(given: dict[str, Any], environment: Mapping[str, str]) -> None:
    known = {
        f"{_ENVIRONMENT_PREFIX}{name}_{field}".upper(): (name, field, get_origin(get_args(hint)[0]) is list)
        for name, kind in _sections().items()
        for field, (hint, _) in _fields(kind).items()
    }
    for variable, value in environment.items():
        if not variable.startswith(_ENVIRONMENT_PREFIX) or variable in _ENVIRONMENT_OTHERS:
            continue
        if variable not in known:
            raise SettingWrong(f"The environment has {variable}, which is no setting; `posthouse settings` lists them.")
        name, field, is_list = known[variable]
        section = given.setdefault(name, {})
        section[field] = [part.strip() for part in value.split(",") if part.strip()] if is_list else value


def _check_together(settings: Settings) -> None:
    """Rules that join two settings."""
    delivery = settings.delivery
    longest = delivery.longest_transaction
    if delivery.in_flight_minutes * 60 <= longest:
        raise SettingWrong(
            f"delivery.in_flight_minutes = {delivery.in_flight_minutes:g} is not allowed: it must be longer than one SMTP "
            f"transaction may take, which is {longest / 60:.1f} minutes with the other time-outs."
        )
    if bool(settings.public.tls_certificate) != bool(settings.public.tls_key):
        raise SettingWrong("public.tls_certificate and public.tls_key go together: set both or none.")


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    # DEL is the one character that JSON leaves as it is and TOML forbids.
    return msgspec.json.encode(value).decode().replace("\x7f", "\\u007f")
