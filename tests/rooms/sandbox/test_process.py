"""The sandbox as a process: it is ready when it says so, and never outlives whoever started it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pytest

from posthouse.sandbox import Plan, Sandbox, SandboxUnavailable, start
from posthouse.sandbox.plan import to_json
from posthouse.sandbox.records import read_records

RunSandbox = Callable[..., Sandbox]
Eventually = Callable[[Callable[[], bool]], None]


def is_gone(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True


def test_everything_listens_on_loopback_only(run_sandbox: RunSandbox) -> None:
    sandbox = run_sandbox()
    listening = [c.laddr for c in psutil.Process(sandbox.ready.pid).net_connections("inet") if not c.raddr]
    assert len(listening) == 2 * len(sandbox.ready.addresses) + 2
    assert {address.ip.partition(".")[0] for address in listening} == {"127"}
    assert {address.port for address in listening} == {sandbox.ready.smtp_port, sandbox.ready.dns_port}


def test_keys_are_for_their_owner_only(run_sandbox: RunSandbox) -> None:
    ready = run_sandbox(public_hosts=("links.news.example",)).ready
    keys = list(ready.ca_file.parent.glob("*.key"))
    assert ready.public_key in keys
    assert {key.stat().st_mode & 0o777 for key in keys} == {0o600}


def test_stop_ends_it_and_can_be_said_twice(run_sandbox: RunSandbox) -> None:
    sandbox = run_sandbox()
    assert [sandbox.stop(), sandbox.stop()] == [0, 0]
    assert not psutil.pid_exists(sandbox.ready.pid)
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((sandbox.ready.addresses["plain"][0], sandbox.ready.smtp_port))


PARENT = """
import sys, time
from pathlib import Path
from posthouse.sandbox import Plan, start
sandbox = start(Plan(seed=1, directory=Path(sys.argv[1])))
{fork}
print(sandbox.ready.pid, flush=True)
time.sleep(60)
"""
FORK = "import os\nif os.fork() == 0:\n    os.close(1)\n    time.sleep(60)\n    os._exit(0)"


@pytest.mark.parametrize("fork", ["", FORK], ids=["alone", "with a sibling that holds the pipe open"])
def test_it_ends_when_its_parent_is_killed(tmp_path: Path, eventually: Eventually, fork: str) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT.format(fork=fork), str(tmp_path)], stdout=subprocess.PIPE, start_new_session=True
    ) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert psutil.pid_exists(pid)
        parent.kill()
        parent.wait()
        eventually(lambda: is_gone(pid))
        if fork:
            os.killpg(parent.pid, signal.SIGKILL)


def test_by_hand_it_needs_no_stdin_and_stops_at_sigterm(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_bytes(to_json(Plan(seed=1, directory=tmp_path / "sandbox")))
    with subprocess.Popen(
        [sys.executable, "-m", "posthouse.sandbox", str(plan)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert b"smtp_port" in process.stdout.readline()
        process.terminate()
        assert process.wait() == 0


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        ([], 2, "Usage: python -m posthouse.sandbox"),
        (["missing.json"], 1, "The plan missing.json cannot be read: "),
        (["wrong.json"], 1, "The plan wrong.json cannot be read: Object missing required field `seed`"),
        (["--with-parent", "wrong.json", "x"], 2, "Usage: python -m posthouse.sandbox"),
    ],
)
def test_a_wrong_call_gets_one_sentence(tmp_path: Path, arguments: list[str], code: int, sentence: str) -> None:
    (tmp_path / "wrong.json").write_text("{}")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, "-m", "posthouse.sandbox", *arguments],
        cwd=tmp_path,
        env=environment,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == code
    assert done.stderr.startswith(sentence)
    assert done.stderr.count("\n") == 1


def test_a_port_in_use_is_said_in_a_sentence(run_sandbox: RunSandbox, tmp_path: Path) -> None:
    port = run_sandbox().ready.smtp_port
    with pytest.raises(SandboxUnavailable, match=f"SMTP port {port}: .*in use.* Choose other ports, or 0 for free"):
        start(Plan(seed=1, directory=tmp_path / "second", smtp_port=port))


def test_records_reach_the_file_while_it_runs_and_survive_a_kill(
    run_sandbox: RunSandbox, dial: Callable[[Sandbox, str], Any], eventually: Eventually
) -> None:
    sandbox = run_sandbox()
    dialog = dial(sandbox, "plain")
    dialog.greet()
    dialog.mail("r@a.example")
    eventually(lambda: bool(list(sandbox.records())))
    os.kill(sandbox.ready.pid, signal.SIGKILL)
    eventually(lambda: is_gone(sandbox.ready.pid))
    with sandbox.ready.record_file.open("ab") as file:
        file.write(b'{"kind":"dot","t":1')
    assert [record.rcpt for record in read_records(sandbox.ready.record_file)] == ["r@a.example"]


def test_without_records_the_counters_go_on(run_sandbox: RunSandbox, dial: Callable[[Sandbox, str], Any]) -> None:
    sandbox = run_sandbox(record=False)
    dialog = dial(sandbox, "plain")
    dialog.greet()
    dialog.mail("r@a.example")
    sandbox.stop()
    assert list(sandbox.records()) == []
    assert sandbox.status().accepted == {"dot": 1}
