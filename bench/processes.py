"""CPU time and peak memory of everything that a run starts, told apart by role, read from /proc."""

from __future__ import annotations

import os
import re
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_seconds(roots: dict[str, int]) -> dict[str, float]:
    """Role → CPU seconds so far of the processes below it, those that ended and were waited for included.

    roots: role → process id; a process counts for the nearest root above it.
    """
    parents, used = _table()
    owners = {pid: role for role, pid in roots.items()}
    total: dict[str, float] = dict.fromkeys(roots, 0.0)
    for pid, seconds in used.items():
        ancestor: int | None = pid
        while ancestor is not None and ancestor not in owners:
            ancestor = parents.get(ancestor)
        if ancestor is not None:
            total[owners[ancestor]] += seconds
    return total


def peak_megabytes(pid: int) -> float:
    """The most resident memory that a process ever had."""
    match = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(encoding="ascii"))
    return int(match[1]) / 1024 if match else 0.0


def _table() -> tuple[dict[int, int], dict[int, float]]:
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


def postmaster(cluster: Path) -> int:
    """The process id of a PostgreSQL server."""
    return int((cluster / "postmaster.pid").read_text(encoding="ascii").split()[0])
