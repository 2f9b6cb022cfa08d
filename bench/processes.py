"""CPU time and memory of everything that a run starts, told apart by role, as /proc shows them."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_QUIET_SECONDS = 0.4
_QUIET_SHARE = 0.05
_MOST_SECONDS = 30.0


@dataclass
class Role:
    """The processes of one role together.

    cpu_seconds: user and system time, that of children that ended included; peak_mb: VmHWM of the largest process (for PostgreSQL it
    counts the shared buffers that the process touched); private_mb: the anonymous memory of all of them at this moment.
    """

    cpu_seconds: float = 0.0
    peak_mb: float = 0.0
    private_mb: float = 0.0
    pids: list[int] = field(default_factory=list)


def read(roots: Mapping[str, int]) -> dict[str, Role]:
    """Every role as it is now. roots: role → process id; what is below a root has its role, but for the processes of Posthouse, which
    are told apart by their command line: front, sender, render child.
    """
    parents, used = _table()
    owners = {pid: role for role, pid in roots.items()}
    roles = {role: Role() for role in roots}
    for pid in used:
        name = _role(pid, parents, owners)
        if name is not None:
            role = roles.setdefault(name, Role())
            peak, private = _memory(pid)
            role.cpu_seconds += used[pid]
            role.peak_mb = max(role.peak_mb, peak)
            role.private_mb += private
            role.pids.append(pid)
    return roles


def wait_until_quiet(roots: Mapping[str, int]) -> None:
    """Wait until processes that were just started have done what they do at their start. Raises TimeoutError."""
    deadline = time.monotonic() + _MOST_SECONDS
    before = _busy(roots)
    while time.monotonic() < deadline:
        time.sleep(_QUIET_SECONDS)
        now = _busy(roots)
        if now - before < _QUIET_SHARE * _QUIET_SECONDS:
            return
        before = now
    raise TimeoutError("the processes of Posthouse do not come to rest")


def keeper_of(cluster: Path) -> int:
    """The process that keeps a PostgreSQL server, which is the parent of its postmaster."""
    postmaster = int((cluster / "postmaster.pid").read_text(encoding="ascii").split()[0])
    return _table()[0][postmaster]


def machine_seconds() -> tuple[float, float]:
    """(seconds that all cores worked, seconds that a hypervisor took from them), since the start of the machine."""
    ticks = [int(each) for each in Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:9]]
    user, nice, system, _, _, interrupts, soft, stolen = ticks
    return (user + nice + system + interrupts + soft) / _TICKS, stolen / _TICKS


def _busy(roots: Mapping[str, int]) -> float:
    return sum(role.cpu_seconds for role in read(roots).values())


def _role(pid: int, parents: Mapping[int, int], owners: dict[int, str]) -> str | None:
    """The role of a process; what is found is kept in `owners`."""
    if pid in owners:
        return owners[pid]
    parent = parents.get(pid)
    inherited = _role(parent, parents, owners) if parent else None
    if inherited is None:
        return None
    owners[pid] = _own_role(pid) or inherited
    return owners[pid]


def _own_role(pid: int) -> str | None:
    try:
        arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return None
    if "posthouse.doors.worker" in arguments:
        return arguments[arguments.index("posthouse.doors.worker") + 1]
    return "render child" if "posthouse.composing.child" in arguments else None


def _memory(pid: int) -> tuple[float, float]:
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return 0.0, 0.0
    peak, private = (re.search(rf"{name}:\s+(\d+) kB", status) for name in ("VmHWM", "RssAnon"))
    return (int(peak[1]) / 1024 if peak else 0.0), (int(private[1]) / 1024 if private else 0.0)


def _table() -> tuple[dict[int, int], dict[int, float]]:
    """(process → parent, process → CPU seconds with those of its ended children)."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue  # it ended at this moment
        parents[int(entry.name)] = int(fields[1])
        used[int(entry.name)] = sum(int(ticks) for ticks in fields[11:15]) / _TICKS
    return parents, used
