"""The embedded server: shared, never orphaned, never on the network, and back after any kill."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import asyncpg
import psutil  # type: ignore[import-untyped]
import pytest

from posthouse.db.cluster import can_enter
from posthouse.db.server import EmbeddedServer
from posthouse.model.errors import DatabaseUnavailable

SYSTEM = Path("/usr/lib/postgresql/15/bin")
USER = """
import sys
from pathlib import Path
from posthouse.db.server import EmbeddedServer
with EmbeddedServer(Path(sys.argv[1])) as server:
    print(server.url, flush=True)
    sys.stdin.read()
"""


def query(url: str, statement: str) -> Any:
    async def ask() -> Any:
        connection = await asyncpg.connect(url)
        try:
            return await connection.fetchval(statement)
        finally:
            await connection.close()

    return asyncio.run(ask())


def postmaster(directory: Path) -> psutil.Process:
    return psutil.Process(int((directory / "postgres" / "postmaster.pid").read_text().split("\n")[0]))


def eventually(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, "it never came about"
        time.sleep(0.02)


def is_gone(process: psutil.Process) -> bool:
    return not process.is_running() or bool(process.status() == psutil.STATUS_ZOMBIE)


@contextmanager
def user(directory: Path, **more: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Another process that uses the server, and the URL that it was told."""
    process = subprocess.Popen(
        [sys.executable, "-c", USER, str(directory)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **more,
    )
    assert process.stdout is not None
    try:
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.communicate()


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One data directory for the tests of this file: a cluster takes seconds to make."""
    directory = tmp_path_factory.mktemp("house")
    for folder in (directory, *list(directory.parents)[:3]):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o1000:  # never /tmp itself
            folder.chmod(0o755)
    return directory


def test_users_share_one_server_and_the_last_one_stops_it(house: Path) -> None:
    with user(house) as (first, url), user(house) as (second, same):
        assert url == same
        query(url, "create table kept (n integer)")
        running = postmaster(house)
        first.communicate("")
        assert query(url, "insert into kept values (1) returning n") == 1
        assert postmaster(house) == running
        with EmbeddedServer(house) as mine:
            second.communicate("")
            assert query(mine.url, "select count(*) from kept") == 1
            assert postmaster(house) == running
    eventually(lambda: is_gone(running))
    assert not (house / "postgres" / "postmaster.pid").exists(), "it was stopped, not killed"


def test_a_killed_user_leaves_no_orphan(house: Path) -> None:
    with user(house) as (process, _):
        running = postmaster(house)
        keeper = running.parent()
        process.kill()
        eventually(lambda: is_gone(running) and is_gone(keeper))


def test_a_killed_server_comes_back_with_its_data(house: Path) -> None:
    with EmbeddedServer(house) as server:
        query(server.url, "insert into kept values (2) returning n")
        killed = postmaster(house)
        killed.send_signal(signal.SIGKILL)
        eventually(lambda: is_gone(killed))

        def answers() -> bool:
            try:
                return bool(query(server.url, "select max(n) from kept") == 2)
            except (OSError, asyncpg.PostgresError):
                return False

        eventually(answers)
        assert postmaster(house) != killed


def test_a_server_whose_keeper_was_killed_stops_and_another_user_starts_it_again(house: Path) -> None:
    with EmbeddedServer(house) as server:
        running = postmaster(house)
        running.parent().kill()
        eventually(lambda: is_gone(running))
        with EmbeddedServer(house) as again:
            assert query(again.url, "select max(n) from kept") == 2
            assert again.url == server.url


def listening(process: psutil.Process) -> list[object]:
    """The network sockets that a process listens at; none for one that ended at this moment."""
    try:
        return [c for c in process.net_connections("inet") if c.status == psutil.CONN_LISTEN]
    except psutil.NoSuchProcess:
        return []


def test_it_is_on_no_network_and_asks_for_its_password(house: Path) -> None:
    with EmbeddedServer(house) as server:
        assert [c for process in (postmaster(house), *postmaster(house).children()) for c in listening(process)] == []
        assert query(server.url, "select current_setting('listen_addresses')") == ""
        assert query(server.url, "select current_setting('synchronous_commit')") == "on"
        assert query(server.url, "select current_setting('data_checksums')") == "on"
        assert (house / "postgres.password").stat().st_mode & 0o777 == 0o600
        socket_folder = Path(server.url.partition("host=")[2].replace("%2F", "/"))
        assert socket_folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(asyncpg.InvalidPasswordError):
            query(server.url.replace(":", ":x", 2).replace("postgresql:x", "postgresql:"), "select 1")


def test_a_process_of_root_is_not_roots(house: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root has to change the account")
    with EmbeddedServer(house):
        assert postmaster(house).uids().real != 0


def test_a_cluster_of_another_version_is_refused(house: Path) -> None:
    version = house / "postgres" / "PG_VERSION"
    eventually(lambda: not (house / "postgres" / "postmaster.pid").exists())
    kept = version.read_text()
    version.write_text("14\n")
    try:
        with pytest.raises(DatabaseUnavailable, match="was made by PostgreSQL 14, but the one installed is 18"):
            EmbeddedServer(house).__enter__()
    finally:
        version.write_text(kept)


def test_a_server_that_cannot_start_names_its_log(house: Path) -> None:
    control = house / "postgres" / "global" / "pg_control"
    hidden = control.with_name("hidden")
    control.rename(hidden)
    try:
        with pytest.raises(
            DatabaseUnavailable, match=r"PostgreSQL did not start; the reason is at the end of .*postgres\.log"
        ):
            EmbeddedServer(house).__enter__()
    finally:
        hidden.rename(control)


def test_binaries_that_are_not_there_are_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(DatabaseUnavailable, match="PostgreSQL cannot be started in"):
        EmbeddedServer(tmp_path, bin_directory=tmp_path / "nowhere").__enter__()


def test_a_path_too_long_for_a_socket_gets_a_short_private_one(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 60) / ("y" * 60)
    deep.mkdir(parents=True)
    if not SYSTEM.is_dir():
        pytest.skip("needs PostgreSQL 15 of the system")
    # The system's binaries at the same time: PostgreSQL 15 is the oldest that we promise.
    with EmbeddedServer(deep, bin_directory=SYSTEM) as server:
        socket_folder = Path(server.url.partition("host=")[2].replace("%2F", "/"))
        assert socket_folder.parent == Path("/tmp")
        assert socket_folder.stat().st_mode & 0o777 == 0o700
        assert query(server.url, "select current_setting('server_version_num')::integer / 10000") == 15

        async def built() -> list[str]:
            from posthouse.db.migrate import migrate

            connection = await asyncpg.connect(server.url)
            try:
                return await migrate(connection)
            finally:
                await connection.close()

        assert asyncio.run(built())
        running = postmaster(deep)
    eventually(lambda: is_gone(running))
    shutil.rmtree(socket_folder, ignore_errors=True)


def test_a_socket_folder_of_somebody_else_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    server = EmbeddedServer(deep)
    folder = server._socket_directory
    folder.mkdir(mode=0o755)
    if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o1000:  # never /tmp itself
        folder.chmod(0o755)
    try:
        with pytest.raises(DatabaseUnavailable, match="is not a private folder of ours"):
            server._make_socket_directory()
    finally:
        folder.rmdir()


def test_an_ordinary_user_runs_it_as_himself(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("the other tests run as an ordinary user already")
    nobody = (65534, 65534)
    if not can_enter(Path(sys.executable).resolve().parent, nobody):
        pytest.skip("another account cannot reach this interpreter")
    for folder in (tmp_path, *list(tmp_path.parents)[:3]):
        if folder.stat().st_uid == os.geteuid() and not folder.stat().st_mode & 0o1000:  # never /tmp itself
            folder.chmod(0o755)
    data = tmp_path / "data"
    data.mkdir()
    os.chown(data, *nobody)
    with user(data, user=nobody[0], group=nobody[1], extra_groups=[]) as (_, url):
        assert query(url, "select 1") == 1
        assert postmaster(data).uids().real == nobody[0]
