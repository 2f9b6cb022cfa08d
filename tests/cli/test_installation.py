"""init, settings, up: what a new user meets, and what is said when something is in the way."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest
from typer.testing import CliRunner

from posthouse.cli.program import program
from posthouse.queue import Journal

Eventually = Callable[[Callable[[], bool]], None]
COMMANDS = [
    ["init"],
    ["up"],
    ["settings"],
    ["report"],
    ["demo"],
    ["domain", "add"],
    ["domain", "verify"],
    ["contacts", "import"],
    ["campaign", "send"],
    ["campaign", "status"],
    ["message", "show"],
    ["message", "find"],
    ["suppression", "lift"],
]


def is_gone(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def workers(pid: int) -> list[psutil.Process]:
    """The front and the senders of an `up`."""
    found = []
    for child in psutil.Process(pid).children():
        with suppress(psutil.NoSuchProcess, psutil.ZombieProcess):
            if "posthouse.doors.worker" in child.cmdline():
                found.append(child)
    return found


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_command_explains_itself_with_an_example(command: list[str]) -> None:
    done = CliRunner().invoke(program, [*command, "--help"], prog_name="posthouse")
    assert done.exit_code == 0, done.output
    assert "Example" in done.output
    usage, _, examples = done.output.partition("Example")
    assert f"posthouse {' '.join(command)}" in " ".join(usage.split())
    assert f"posthouse {' '.join(command)}" in " ".join(examples.split())


def test_init_makes_a_directory_once(house: Any) -> None:
    before = {file.name: file.read_bytes() for file in house.data.iterdir() if file.is_file()}
    assert before.keys() >= {"posthouse.toml", "posthouse.key"}
    assert (house.data / "posthouse.key").stat().st_mode & 0o777 == 0o600
    assert "is a data directory already; nothing was changed." in house.tell("init")
    assert {file.name: file.read_bytes() for file in house.data.iterdir() if file.is_file()} == before


def test_init_leaves_other_peoples_folders_alone(house: Any, tmp_path: Path) -> None:
    house.data = tmp_path / "photos"
    house.data.mkdir()
    (house.data / "cat.jpg").touch()
    assert "is not empty and has no posthouse.toml: choose another with --data." in house.refusal("init")
    house.data = tmp_path / "photos" / "cat.jpg" / "x"
    assert "cannot be used as data directory" in house.refusal("init")


def test_a_command_without_an_installation_says_how_to_make_one(house: Any, tmp_path: Path) -> None:
    house.data = tmp_path / "nothing"
    assert "is not a data directory of Posthouse yet: run `posthouse init --data" in house.refusal("report")


def test_settings_are_shown_without_their_secrets(house: Any) -> None:
    shown = house.facts("settings", POSTHOUSE_DELIVERY_RELAY="smtp://me:secret@smart.example.com")
    assert shown["delivery.relay"] == "smtp://me:…@smart.example.com"
    assert shown["delivery.port"] == 25
    assert "secret" not in house.tell("settings", POSTHOUSE_DELIVERY_RELAY="smtp://me:secret@smart.example.com")


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"POSTHOUSE_DELIVERY_PORT": "smtp"}, "delivery.port = 'smtp' is not allowed"),
        ({"POSTHOUSE_DELIVERY_RELAY": "smtp://h:x"}, "delivery.relay is not a URL"),
        ({"POSTHOUSE_DNS_NAMESERVERS": "1.2.3"}, "which is not an IP address"),
        ({"POSTHOUSE_PROT": "25"}, "POSTHOUSE_PROT, which is no setting"),
        ({"POSTHOUSE_DATABASE_URL": "postgresql://127.0.0.1:1/x"}, "PostgreSQL does not answer"),
        ({"POSTHOUSE_SECRET_KEY_FILE": "/nonexistent"}, "The master key /nonexistent is missing"),
    ],
)
def test_a_wrong_setting_is_one_sentence(house: Any, settings: dict[str, str], sentence: str) -> None:
    assert sentence in house.refusal("up", **settings)


def test_a_wrong_setting_in_the_file_is_one_sentence(house: Any) -> None:
    file = house.data / "posthouse.toml"
    file.write_text(file.read_text().replace("# port = 25", "port = 0"))
    assert "delivery.port = 0 is not allowed: Expected `int` >= 1." in house.refusal("report")


def test_the_key_of_another_installation_is_refused(house: Any, tmp_path: Path) -> None:
    house.tell("report")
    (house.data / "posthouse.key").unlink()
    assert "restore it from your backup" in house.refusal("report")
    house.tell("init")
    assert "does not belong to this database" in house.refusal("report")


@pytest.mark.parametrize("door", ["PUBLIC", "INBOUND"])
def test_a_port_in_use_is_said(house: Any, door: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        sentence = house.refusal("up", **{f"POSTHOUSE_{door}_LISTEN": address})
    assert f"{door.lower()}.listen = '{address}'" in sentence
    assert "is the port in use?" in sentence


def test_up_runs_once_on_a_directory_and_ends_with_all_its_processes(house: Any, eventually: Eventually) -> None:
    """With a server of its own, which its last user stops."""
    del house.settings["POSTHOUSE_DATABASE_URL"]
    for folder in (house.data, *list(house.data.parents)[:3]):
        if folder != Path("/tmp"):
            folder.chmod(0o755)
    with house.up() as process:
        eventually(lambda: len(workers(process.pid)) == 2)
        family = workers(process.pid)
        assert f"runs on {house.data} already (process {process.pid}): stop it first" in house.refusal("up")
        assert house.facts("domain", "list") == [], "another command joins its server"
        postmaster = psutil.Process(int((house.data / "postgres" / "postmaster.pid").read_text().split("\n")[0]))
    assert all(is_gone(each) for each in family)
    eventually(lambda: is_gone(postmaster))


def test_a_sender_that_cannot_begin_says_why(house: Any) -> None:
    """Its journal is in another process's hands."""
    journal = Journal(house.data / "journal" / "sender-0", segment_bytes=4096)
    try:
        with house.up() as process:
            assert process.stdout is not None
            said = next(line for line in process.stdout if "a sender cannot go on" in line)
    finally:
        journal.close()
    assert "Another sender writes the journal in" in said


def test_children_do_not_outlive_a_killed_up(house: Any, eventually: Eventually) -> None:
    with house.up() as process:
        family = workers(process.pid)
        os.kill(process.pid, signal.SIGKILL)
        eventually(lambda: all(is_gone(each) for each in family))
        process.wait()


def test_a_killed_child_is_started_again(house: Any, eventually: Eventually) -> None:
    with house.up() as process:
        first = workers(process.pid)
        for each in first:
            each.kill()
        eventually(lambda: len([each for each in workers(process.pid) if each not in first]) == len(first))
