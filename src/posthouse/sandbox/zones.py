"""The sender's DNS zones: a JSON file in the sandbox's directory, written by the sender's side, read again when it changes."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from time import monotonic
from typing import Literal

import msgspec
from msgspec import Struct

from posthouse.sandbox.plan import PlanWrong

RecordType = Literal["A", "CNAME", "MX", "PTR", "TXT"]

_LOOK_AGAIN_SECONDS = 0.05


class ZoneRecord(Struct, frozen=True, forbid_unknown_fields=True):
    """One DNS record: a full name without the last dot and a value.

    value: an address for A, a name for CNAME and PTR, "10 mx.example.com" for MX, the whole text (of any length) for TXT.
    """

    name: str
    type: RecordType
    value: str


class ZoneFile(Struct, frozen=True, forbid_unknown_fields=True):
    """The file: the sender's records, and what becomes of recipient domains (as in `Plan.domains`)."""

    records: tuple[ZoneRecord, ...] = ()
    domains: dict[str, str] = {}


def publish(directory: Path, records: Iterable[ZoneRecord], domains: Mapping[str, str] | None = None) -> None:
    """Put these records, and no others, in the sandbox's DNS; they are answered within 50 ms."""
    path = zone_path(directory)
    draft = path.with_name(f"{path.name}.{os.getpid()}")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(ZoneFile(tuple(records), dict(domains or {}))), indent=1))
    draft.replace(path)


def zone_path(directory: Path) -> Path:
    """Where the zones of a sandbox are kept."""
    return directory / "zones.json"


class Zones:
    """The zones as they are now."""

    def __init__(self, directory: Path) -> None:
        self._path = zone_path(directory)
        self._seen: tuple[int, int, int] | None = None
        self._look_at = 0.0
        self._records: dict[str, list[ZoneRecord]] = {}
        self._domains: dict[str, str] = {}

    def of(self, name: str) -> list[ZoneRecord] | None:
        """The records of a name (lower case): an empty list for an unknown name under a published one, None for a stranger."""
        self._refresh()
        found = self._records.get(name)
        if found is not None:
            return found
        parent = name
        while parent:
            _, _, parent = parent.partition(".")
            if parent in self._records:
                return []
        return None

    def fate_of(self, domain: str) -> str | None:
        """What the file says about a recipient domain, where it says anything."""
        self._refresh()
        return self._domains.get(domain)

    def is_public_host(self, name: str) -> bool:
        """Whether the sender publishes an address of this name."""
        return any(record.type in ("A", "CNAME") for record in self.of(name) or ())

    def _refresh(self) -> None:
        now = monotonic()
        if now < self._look_at:
            return
        self._look_at = now + _LOOK_AGAIN_SECONDS
        try:
            stat = self._path.stat()
        except FileNotFoundError:
            return
        seen = (stat.st_ino, stat.st_mtime_ns, stat.st_size)
        if seen == self._seen:
            return
        try:
            file = msgspec.json.decode(self._path.read_bytes(), type=ZoneFile)
        except msgspec.DecodeError as error:
            raise PlanWrong(f"The zone file {self._path} cannot be read: {error}") from error
        self._seen = seen
        self._records = {}
        for record in file.records:
            self._records.setdefault(record.name.lower().rstrip("."), []).append(record)
        self._domains = {name.lower(): fate for name, fate in file.domains.items()}
