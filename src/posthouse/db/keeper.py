"""The keeper: a small process that owns an embedded PostgreSQL for as long as somebody uses it.

Every process that uses the server holds a shared lock on one file. The keeper waits for the exclusive lock on the same file, which the
kernel grants when the last user is gone, however it went: then it stops the server and leaves. So the server is never orphaned, and
no user has to be the one that stops it. While it waits it restarts a server that was killed.

Run as a script with its order on standard input; imports the standard library only, because it stays in memory.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_RESTART_PAUSE_SECONDS = 0.05
_STOP_SECONDS = 60
# A killed postmaster leaves its backends behind for a moment, and they hold the shared memory.
_START_ATTEMPTS = 100


@dataclass(frozen=True)
class KeeperOrder:
    """What to run: the postgres command line, its account, and the lock files that say whether anybody needs it."""

    command: list[str]
    uid: int | None
    gid: int | None
    users_lock: str
    server_lock: str
    keeper_lock: str
    log: str


def run(order: KeeperOrder) -> int:
    """Keep the server running until the last user is gone; returns the exit code of the process."""
    keeper_lock = os.open(order.keeper_lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(keeper_lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0  # another keeper has the server
    server = _Server(order)
    watcher = threading.Thread(target=server.watch, daemon=True)
    watcher.start()
    users_lock = os.open(order.users_lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(users_lock, fcntl.LOCK_EX)
    # A newcomer takes the server lock first and then tries for the users lock without waiting, so the two cannot deadlock.
    server_lock = os.open(order.server_lock, os.O_RDWR | os.O_CREAT, 0o600)
    fcntl.flock(server_lock, fcntl.LOCK_EX)
    server.stop()
    return 0


class _Server:
    def __init__(self, order: KeeperOrder) -> None:
        self._order = order
        self._stopping = threading.Event()
        self._log = open(order.log, "ab", buffering=0)  # noqa: SIM115 -- lives as long as the process
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        order = self._order
        return subprocess.Popen(
            order.command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=self._log,
            cwd="/",
            user=order.uid,
            group=order.gid,
            extra_groups=[] if order.uid is not None else None,
            preexec_fn=_stop_with_parent,
        )

    def watch(self) -> None:
        """Restart the server when it dies on its own."""
        failures = 0
        while not self._stopping.is_set() and failures < _START_ATTEMPTS:
            started = time.monotonic()
            self._process.wait()
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - started > 5 else failures + 1
            time.sleep(_RESTART_PAUSE_SECONDS)
            if not self._stopping.is_set():
                self._process = self._start()
        if not self._stopping.is_set():
            os._exit(1)

    def stop(self) -> None:
        """Fast shutdown: open transactions roll back, a checkpoint is written."""
        self._stopping.set()
        self._process.send_signal(signal.SIGINT)
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()


def _stop_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


def main() -> None:
    """Read the order from standard input, then keep."""
    order = KeeperOrder(**json.loads(sys.stdin.read()))
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    os.chdir(Path("/"))
    sys.exit(run(order))


if __name__ == "__main__":
    main()
