"""How much a source may bring to a mailbox provider: shipped and operator's rows of data, the later ones winning.

The same rows name the providers: all domains whose mail exchangers end alike are one site (SHP-1).
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from posthouse.model.errors import SettingWrong

_SHIPPED = "site_limits.toml"
_HOUR = 3600.0
_NAME = Meta(pattern=r"^[a-z0-9][a-z0-9._-]*$")
_HEADERS = re.compile(r"^\s*\[\[\s*(site|limit)\s*\]\]", re.MULTILINE)


class SiteLimits(Struct, frozen=True):
    """What one source may bring to one site, all senders of a node together. per_second: messages; None for no limit."""

    connections: int = 10
    messages_per_connection: int = 100
    per_second: float | None = None
    tls_required: bool = False

    def share(self, slot: int, senders: int, site_id: int) -> SiteLimits:
        """The part of one sender among `senders` of a node, in whole connections; a site with fewer connections than senders lives in
        some of them only (answers 10): those have one each, the others none."""
        if senders == 1:
            return self
        turn = (slot - site_id) % senders
        connections = self.connections // senders + (turn < self.connections % senders)
        served = min(senders, self.connections)
        per_second = None if self.per_second is None else self.per_second / served
        return msgspec.structs.replace(self, connections=connections, per_second=per_second)


class _Values(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a row may set; a value that is missing is left to the rows before."""

    connections: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    messages_per_connection: Annotated[int, Meta(ge=1, le=100_000)] | None = None
    messages_per_second: Annotated[float, Meta(gt=0)] | None = None
    messages_per_hour: Annotated[float, Meta(gt=0)] | None = None
    tls: Literal["opportunistic", "required"] | None = None


class _Site(_Values, frozen=True, forbid_unknown_fields=True, kw_only=True):
    name: Annotated[str, _NAME]
    mx: Annotated[list[Annotated[str, Meta(pattern=r"^[a-z0-9.-]+$")]], Meta(min_length=1)]


class _Limit(_Values, frozen=True, forbid_unknown_fields=True, kw_only=True):
    site: Annotated[str, _NAME] | None = None
    pool: str | None = None
    source: str | None = None
    stream: Literal["transactional", "broadcast", "system"] | None = None


_KINDS: dict[str, type[_Site] | type[_Limit]] = {"site": _Site, "limit": _Limit}


class LimitBook:
    """All rows, ready to be asked. Immutable after it was made; remembers its answers."""

    def __init__(self, rows: Sequence[_Site | _Limit], default: SiteLimits) -> None:
        self._rows = rows
        self._default = default
        self._endings = {
            "." + ending.strip("."): row.name for row in rows if isinstance(row, _Site) for ending in row.mx
        }
        self._found: dict[tuple[str, str, str, str], SiteLimits] = {}

    @classmethod
    def load(cls, default: SiteLimits, *paths: Path) -> LimitBook:
        """The shipped rows, then those of the operator's files. Raises SettingWrong with file, line and reason."""
        rows = _read(_SHIPPED, files("posthouse.delivery").joinpath(_SHIPPED).read_text("utf-8"))
        for path in paths:
            try:
                text = path.read_text("utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise SettingWrong(f"The limits in {path} cannot be read: {error}.") from error
            rows += _read(str(path), text)
        return cls(rows, default)

    def site_of(self, mx_host: str) -> str | None:
        """The name of the site that this mail exchanger belongs to, where a row names it."""
        labels = mx_host.lower().rstrip(".").split(".")
        for start in range(len(labels)):
            name = self._endings.get("." + ".".join(labels[start:]))
            if name is not None:
                return name
        return None

    def of(self, site: str, pool: str, source: str, stream: str) -> SiteLimits:
        """The limits of a source towards a site, in a pool, for a stream."""
        key = (site, pool, source, stream)
        found = self._found.get(key)
        if found is None:
            if len(self._found) > 100_000:
                self._found.clear()
            found = self._found[key] = self._work_out(key)
        return found

    def _work_out(self, key: tuple[str, str, str, str]) -> SiteLimits:
        limits = self._default
        for row in self._rows:
            wanted = (
                (row.name, None, None, None) if isinstance(row, _Site) else (row.site, row.pool, row.source, row.stream)
            )
            if all(want is None or want == have for want, have in zip(wanted, key, strict=True)):
                limits = _applied(limits, row)
        return limits


def _applied(limits: SiteLimits, row: _Values) -> SiteLimits:
    rates = [rate for rate in (row.messages_per_second, _hourly(row.messages_per_hour)) if rate is not None]
    return SiteLimits(
        connections=row.connections or limits.connections,
        messages_per_connection=row.messages_per_connection or limits.messages_per_connection,
        per_second=min(rates) if rates else limits.per_second,
        tls_required=limits.tls_required if row.tls is None else row.tls == "required",
    )


def _hourly(messages: float | None) -> float | None:
    return None if messages is None else messages / _HOUR


def _read(source: str, text: str) -> list[_Site | _Limit]:
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise SettingWrong(f"The limits in {source} are not TOML: {error}.") from error
    unknown = set(tables) - {"site", "limit"}
    if unknown:
        raise SettingWrong(f"{source} has “{min(unknown)}”; only [[site]] and [[limit]] may stand there.")
    waiting = {kind: iter(_list(source, kind, tables.get(kind, []))) for kind in ("site", "limit")}
    rows: list[_Site | _Limit] = []
    for header in _HEADERS.finditer(text):
        kind = header[1]
        line = text.count("\n", 0, header.start(1)) + 1
        try:
            rows.append(msgspec.convert(next(waiting[kind], {}), _KINDS[kind]))
        except msgspec.ValidationError as error:
            raise SettingWrong(f"{source}, line {line}, [[{kind}]]: {error}.") from error
    return rows


def _list(source: str, kind: str, tables: Any) -> list[Any]:
    if not isinstance(tables, list):
        raise SettingWrong(f"{source}: write [[{kind}]] with two brackets, once for each {kind}.")
    return tables
