"""A small disk for the journals, which can be made larger while it is in use."""

from __future__ import annotations

import resource
import subprocess
from pathlib import Path

from bench.fault_house import House
from posthouse.data_directory import DataDirectory


class Disk:
    """The small disk of the journals: a tmpfs, or a limit on the size of the sender's files where nothing may be mounted."""

    def __init__(self) -> None:
        self._mounted: Path | None = None

    @property
    def kind(self) -> str:
        """Which of the two it is."""
        return "tmpfs of 2.5 MB" if self._mounted else "RLIMIT_FSIZE (no right to mount)"

    def make(self, directory: DataDirectory) -> None:
        """Before anything runs."""
        folder = directory.path / "journal"
        folder.mkdir(mode=0o700)
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=2560k,mode=0700", "none", str(folder)],
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            self._mounted = folder

    def narrow(self, house: House) -> None:
        """Let the next segment have no room; the limit needs the running sender."""
        if self._mounted is None:
            self._limit(house, 2**20 - 1)

    def widen(self, house: House) -> None:
        """Make room."""
        if self._mounted is None:
            self._limit(house, resource.RLIM_INFINITY)
        else:
            subprocess.run(["mount", "-o", "remount,size=64m", str(self._mounted)], check=True)

    def remove(self) -> None:
        """Unmount."""
        if self._mounted is not None:
            subprocess.run(["umount", "-l", str(self._mounted)], check=False)

    @staticmethod
    def _limit(house: House, size: int) -> None:
        _, hard = resource.prlimit(house.members()["sender-0"], resource.RLIMIT_FSIZE)
        resource.prlimit(house.members()["sender-0"], resource.RLIMIT_FSIZE, (size, hard))
