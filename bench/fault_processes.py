"""Processes as /proc shows them: who belongs to whom, and ending them by number."""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_GONE_SECONDS = 10.0


def descendants(pid: int) -> list[int]:
    """The processes below one, children before grandchildren."""
    children: dict[int, list[int]] = {}
    for child, parent in _parents():
        children.setdefault(parent, []).append(child)
    found: list[int] = []
    level = [pid]
    while level:
        level = [child for each in level for child in children.get(each, ())]
        found += level
    return found


def command_line(pid: int) -> list[str]:
    """The arguments of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")[:-1]
    except OSError:
        return []


def parent_of(pid: int) -> int | None:
    """The parent's number, or None when the process is gone."""
    try:
        return _parent(Path(f"/proc/{pid}/stat").read_text())
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def kill(pids: Iterable[int]) -> float:
    """kill -9, in the order given; returns time.monotonic() of the moment before the first."""
    chosen = list(pids)
    before = time.monotonic()
    for pid in chosen:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            continue
    return before


def wait_gone(pids: Iterable[int]) -> None:
    """Wait until the killed are gone. Raises TimeoutError."""
    deadline = time.monotonic() + _GONE_SECONDS
    for pid in pids:
        while is_alive(pid):
            if time.monotonic() > deadline:
                raise TimeoutError(f"process {pid} does not die")
            time.sleep(0.002)


def end_with_parent() -> None:
    """For preexec_fn: a round that is broken off leaves nothing behind."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def unread_bytes(port: int) -> int:
    """Bytes that wait in the kernel at the receiving side of connections to a local TCP port: content that is under way."""
    wanted = f":{port:04X}"
    most = 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "01" and fields[1].endswith(wanted):
            most = max(most, int(fields[4].partition(":")[2], 16))
    return most


def _parents() -> Iterator[tuple[int, int]]:
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            parent = parent_of(int(entry.name))
            if parent is not None:
                yield int(entry.name), parent


def _parent(stat: str) -> int:
    return int(stat.rpartition(")")[2].split()[1])
