"""Who fetched a pixel or followed a link: a person, a proxy, a prefetcher, a scanner (TRK-1, TRK-2). Signs are data: visitors.toml."""

from __future__ import annotations

import re
import tomllib
from functools import lru_cache
from importlib.resources import files
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import msgspec
from msgspec import Struct

from posthouse.model.closed_list import ClosedList
from posthouse.model.errors import SettingWrong

_REMEMBERED = 8192
_MAX_USER_AGENT = 400


class VisitorClass(ClosedList):
    """What kind of visitor it was."""

    HUMAN = "human", "A person's mail program or browser."
    PROXY = "proxy", "A provider's image proxy: a real open, seen from the wrong address."
    PREFETCH = "prefetch", "Fetched ahead of time, whether or not anybody reads."
    SCANNER = "scanner", "A security scanner, a robot or a link preview."
    UNKNOWN = "unknown", "No sign tells."


class Visitor(Struct, frozen=True):
    """Who it was and the name of the sign that told."""

    visitor_class: VisitorClass
    name: str


class _Sign(Struct, frozen=True, forbid_unknown_fields=True, rename={"visitor_class": "class"}):
    """A sign as it stands in the file: user_agent is a regular expression on the lower-case text; networks are CIDR."""

    name: str
    visitor_class: VisitorClass
    user_agent: str | None = None
    networks: list[str] = []
    is_head: bool = False


class _ReadySign(Struct, frozen=True):
    visitor: Visitor
    user_agent: re.Pattern[str] | None
    networks: tuple[IPv4Network | IPv6Network, ...]
    is_head: bool


_NOBODY = Visitor(VisitorClass.UNKNOWN, "no-sign")


class Visitors:
    """Recognises visitors; the first sign that fits decides, and what was met lately is remembered."""

    def __init__(self, signs: tuple[_ReadySign, ...]) -> None:
        self._signs = signs
        self._again = lru_cache(_REMEMBERED)(self._recognise)

    @classmethod
    def load(cls, path: Path | None = None) -> Visitors:
        """The shipped signs, preceded by those of the operator's file. Raises SettingWrong with file, sign and reason."""
        shipped = (files(__package__) / "visitors.toml").read_text("utf-8")
        own = _read(str(path), path.read_text("utf-8")) if path is not None else []
        return cls((*own, *_read("visitors.toml", shipped)))

    def recognise(self, user_agent: str, remote_ip: str, is_head: bool) -> Visitor:
        """Who it was, from the facts of the request."""
        return self._again(user_agent[:_MAX_USER_AGENT].lower(), remote_ip, is_head)

    def _recognise(self, user_agent: str, remote_ip: str, is_head: bool) -> Visitor:
        try:
            address = ip_address(remote_ip)
        except ValueError:
            address = None
        for sign in self._signs:
            if sign.is_head and not is_head:
                continue
            if sign.user_agent is not None and not sign.user_agent.search(user_agent):
                continue
            if sign.networks and (address is None or not any(address in network for network in sign.networks)):
                continue
            return sign.visitor
        return _NOBODY


def _read(source: str, text: str) -> list[_ReadySign]:
    try:
        entries = msgspec.convert(tomllib.loads(text), dict[str, list[_Sign]])
    except (tomllib.TOMLDecodeError, msgspec.ValidationError) as error:
        raise SettingWrong(f"The visitors file {source}: {error}.") from error
    return [_made(source, sign) for sign in entries.get("visitor", [])]


def _made(source: str, sign: _Sign) -> _ReadySign:
    if not (sign.user_agent or sign.networks or sign.is_head):
        raise SettingWrong(
            f"The visitors file {source}, sign “{sign.name}”: it has no condition, so it would fit everybody."
        )
    try:
        pattern = re.compile(sign.user_agent) if sign.user_agent else None
        networks = tuple(ip_network(network) for network in sign.networks)
    except (re.error, ValueError) as error:
        raise SettingWrong(f"The visitors file {source}, sign “{sign.name}”: {error}.") from error
    return _ReadySign(Visitor(sign.visitor_class, sign.name), pattern, networks, sign.is_head)
