"""The embedded PostgreSQL of one data directory: found, created, started, shared and left.

    with EmbeddedServer(data_directory) as server:
        pool = await open_pool(server.url)

The server runs on a unix socket only, asks for a password that lies in the data directory (mode 0600), and is stopped by its keeper
when the last process that entered has gone.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from posthouse.db.cluster import CONFIGURATION_FILE, Cluster, can_enter, find_binaries, unprivileged_account
from posthouse.model.errors import DatabaseUnavailable

_MAX_SOCKET_PATH = 107
_SOCKET_NAME = ".s.PGSQL.5432"
_START_SECONDS = 60.0


class EmbeddedServer:
    """A use of the data directory's own PostgreSQL; any number of processes may use it at once."""

    def __init__(self, data_directory: Path, *, bin_directory: Path | None = None) -> None:
        """bin_directory: where initdb and postgres are; found in the wheel, else in the system, when None."""
        self._directory = data_directory.absolute()
        self._bin_directory = bin_directory
        self._users_lock: int | None = None
        self._keeper: subprocess.Popen[bytes] | None = None
        self._account = unprivileged_account()
        self._cluster = Cluster(self._directory, self._account)
        self._socket_directory = self._choose_socket_directory()

    @property
    def url(self) -> str:
        """Where this server is, for asyncpg and psql."""
        password = self._cluster.password_file.read_text(encoding="ascii").strip()
        return f"postgresql://posthouse:{password}@/posthouse?host={quote(str(self._socket_directory))}"

    def __enter__(self) -> Self:
        """Start the server, or join the one that runs. Raises DatabaseUnavailable."""
        try:
            self._join()
        except OSError as error:
            raise DatabaseUnavailable(f"PostgreSQL cannot be started in {self._directory}: {error}.") from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the server; the last to leave lets it stop."""
        if self._users_lock is not None:
            os.close(self._users_lock)
            self._users_lock = None

    def revive(self) -> None:
        """Give the server a new keeper where the old one was killed; blocks until the server answers. Raises DatabaseUnavailable."""
        locks = self._directory / "locks"
        with _exclusive(locks / "server"):
            self._ensure_running(locks, time.monotonic() + _START_SECONDS)

    def _join(self) -> None:
        locks = self._directory / "locks"
        locks.mkdir(mode=0o700, exist_ok=True)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with _exclusive(locks / "server"):
                users = os.open(locks / "users", os.O_RDWR | os.O_CREAT, 0o600)
                try:
                    fcntl.flock(users, fcntl.LOCK_SH | fcntl.LOCK_NB)
                except BlockingIOError:
                    os.close(users)  # the keeper of the last user is stopping the server: let it finish
                else:
                    self._users_lock = users
                    self._ensure_running(locks, deadline)
                    return
            if time.monotonic() > deadline:
                raise DatabaseUnavailable("The last PostgreSQL of this data directory does not stop.")
            time.sleep(0.02)

    def _ensure_running(self, locks: Path, deadline: float) -> None:
        if not _is_locked(locks / "keeper"):
            binaries = self._cluster.ensure(self._bin_directory or find_binaries())
            self._spawn_keeper(binaries, locks)
        self._wait_until_it_answers(deadline)

    def _spawn_keeper(self, binaries: Path, locks: Path) -> None:
        uid, gid = self._account or (None, None)
        self._make_socket_directory()
        # The account may not be able to follow the link from a private folder.
        cluster = self._cluster.path.resolve()
        order = {
            "command": [
                str(binaries / "postgres"),
                *("-D", str(cluster)),
                *("-k", str(self._socket_directory)),
                *("-c", f"config_file={cluster / CONFIGURATION_FILE}"),
            ],
            "uid": uid,
            "gid": gid,
            "users_lock": str(locks / "users"),
            "server_lock": str(locks / "server"),
            "keeper_lock": str(locks / "keeper"),
            "log": str(self._directory / "postgres.log"),
        }
        keeper = subprocess.Popen(
            [sys.executable, "-S", "-E", str(Path(__file__).with_name("keeper.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        assert keeper.stdin is not None
        keeper.stdin.write(json.dumps(order).encode())
        keeper.stdin.close()
        self._keeper = keeper

    def _wait_until_it_answers(self, deadline: float) -> None:
        path = str(self._socket_directory / _SOCKET_NAME)
        while time.monotonic() < deadline and (self._keeper is None or self._keeper.poll() is None):
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(path)
                except OSError:
                    time.sleep(0.02)
                    continue
            if self._accepts_queries(path):
                if self._keeper is not None:
                    self._keeper.returncode = 0  # it outlives us by design: no warning for a child that was let go
                return
            time.sleep(0.02)
        raise DatabaseUnavailable(
            f"PostgreSQL did not start; the reason is at the end of {self._directory / 'postgres.log'}."
        )

    @staticmethod
    def _accepts_queries(path: str) -> bool:
        """Ask with a start-up packet: a server that still recovers answers with an error, a ready one asks for the password."""
        packet = b"\x00\x03\x00\x00user\x00posthouse\x00database\x00posthouse\x00\x00"
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            try:
                probe.connect(path)
                probe.sendall((len(packet) + 4).to_bytes(4, "big") + packet)
                return probe.recv(1) == b"R"
            except OSError:
                return False

    def _make_socket_directory(self) -> None:
        """A folder that only the server's account and we can enter; one in /tmp that is somebody else's is refused."""
        folder = self._socket_directory
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        facts = folder.lstat()
        ours = {os.geteuid()} | ({self._account[0]} if self._account else set())
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid not in ours or facts.st_mode & 0o077:
            raise DatabaseUnavailable(f"{folder} is not a private folder of ours: remove it, it is made anew.")
        if self._account is not None:
            os.chown(folder, *self._account)

    def _choose_socket_directory(self) -> Path:
        inside = self._directory.resolve() / "run"
        reachable = self._account is None or can_enter(self._directory.resolve(), self._account)
        if reachable and len(os.fsencode(inside / _SOCKET_NAME)) <= _MAX_SOCKET_PATH:
            return inside
        name = hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]
        return Path(f"/tmp/posthouse-{os.getuid()}-{name}")  # noqa: S108 -- made with mode 0700, owner checked


class _exclusive:
    """An exclusive lock on a file for the length of a with block."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None:
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _is_locked(path: Path) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False
