"""The benchmark on a few recipients: it runs the whole product, and it refuses to report a run in which somebody is missing."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from bench import __main__ as command
from bench import processes, signing, stages
from bench.clocks import Clocks
from bench.product import data_directory
from bench.receiver import receiver
from bench.run import OWN_ROLES, Unaccounted, run, send
from bench.scenarios import SCENARIOS, Scenario

from posthouse.composing.render_child import RenderChild
from posthouse.sandbox import publish

_RECIPIENTS = 40


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the results of a test go, instead of bench/results."""
    monkeypatch.setattr(command, "_RESULTS", tmp_path)
    return tmp_path


def test_a_run_accounts_for_every_message_and_for_the_work_of_every_process() -> None:
    result = run(SCENARIOS["blanks"].sized(_RECIPIENTS), limit_seconds=0.2)
    roles = set(OWN_ROLES) - {"render child"}
    assert (result["delivered"], result["received"]) == (_RECIPIENTS, _RECIPIENTS)
    assert roles <= set(result["cpu_us"])
    assert result["own_cpu_us"] == pytest.approx(sum(result["cpu_us"][role] for role in roles), abs=0.1)
    assert result["cpu_ratio"] == pytest.approx(result["signature_cpu_us"] / result["own_cpu_us"], abs=0.01)
    assert result["wall_ratio"] == pytest.approx(
        result["delivered_per_second"] / result["signing_limit_per_second"], abs=0.01
    )
    assert all(result["peak_mb"][role] > 5 for role in roles)


@pytest.mark.parametrize(
    ("fate", "complaint"),
    [
        ("nxdomain", "of 40 recipients 20 were delivered to, and the receiver took 20"),
        ("servfail", "20 of 40 recipients are accounted for, and nothing moves any more"),
    ],
)
def test_a_run_in_which_somebody_got_nothing_is_refused(fate: str, complaint: str) -> None:
    scenario = Scenario("lost", _RECIPIENTS, tls=True, domains=2)
    with data_directory() as (directory, beside), receiver(beside, scenario.sized(1)) as sink:
        publish(beside, [], {"bench1.test": fate})
        with pytest.raises(Unaccounted, match=complaint):
            send(scenario, directory, sink, still_seconds=2.0)


def test_the_command_writes_what_it_measured(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--scenario", "tls", "--recipients", str(_RECIPIENTS), "--limit-seconds", "0.2"])
    written = json.loads(next(results.glob("*.json")).read_text())
    (measured,) = written["throughput"]
    assert (measured["name"], measured["received"]) == ("tls", _RECIPIENTS)
    assert measured["receiver"] == "sandbox's plain provider"
    assert "stages" not in written
    assert "tls" in capsys.readouterr().out


def test_the_stages_add_up_to_the_whole_sender() -> None:
    result = stages.measure(_RECIPIENTS)
    assert set(result["sender"]) >= {"claim", "route", "fill", "sign", "wire", "settle", "loop and the rest"}
    assert sum(result["sender"].values()) == pytest.approx(result["sender_sum"], abs=1)
    assert set(result["postgresql"]) == {"launch", "claim and settle", "count"}


def test_the_signing_limit_is_that_of_all_cores() -> None:
    limit = signing.measure(0.2)
    assert limit.per_second > 0
    assert limit.cpu_us > 0
    mean = signing.mean(limit, signing.SigningLimit(limit.per_second * 3, limit.cpu_us * 5))
    assert mean.per_second == pytest.approx(limit.per_second * 2)
    assert mean.cpu_us == pytest.approx(limit.cpu_us * 3)


def test_work_of_children_that_have_ended_still_counts() -> None:
    burn = "import time\nend = time.process_time() + 0.3\nwhile time.process_time() < end: pass"
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\nsys.stdin.read()",
        ],
        stdin=subprocess.PIPE,
    )
    try:
        _wait_until_alone(parent.pid)
        assert processes.read({"burner": parent.pid})["burner"].cpu_seconds >= 0.3
        assert "burner" in processes.read({"burner": parent.pid, "own": os.getpid()})
    finally:
        parent.communicate()


async def test_a_render_child_is_told_apart_from_its_sender() -> None:
    async with RenderChild() as child:
        await child.render({"text": "{{ first_name }}"}, [{"first_name": "Ann"}])
        roles = processes.read({"sender": os.getpid()})
        assert roles["render child"].pids == [child.pid]
        assert child.pid not in roles["sender"].pids


def _wait_until_alone(pid: int) -> None:
    children = Path(f"/proc/{pid}/task/{pid}/children")
    seen = False
    for _ in range(500):
        running = bool(children.read_text().strip())
        if seen and not running:
            return
        seen = seen or running
        time.sleep(0.02)
    raise AssertionError("the child did not come and go")


async def test_an_inner_stage_is_not_counted_for_the_outer_one_nor_is_waiting() -> None:
    clocks = Clocks()

    def burn(seconds: float) -> None:
        end = time.thread_time() + seconds
        while time.thread_time() < end:
            pass

    inner = clocks.around("inner", burn)

    async def work() -> str:
        inner(0.05)
        await asyncio.sleep(0)
        burn(0.02)
        try:
            await asyncio.wait_for(asyncio.Event().wait(), 0.01)
        except TimeoutError:
            return "done"
        return "never"

    timed = clocks.around_coroutine("outer", work)

    async def beside() -> None:
        burn(0.05)

    answer, _ = await asyncio.gather(timed(), beside())
    assert answer == "done"
    assert clocks.seconds["inner"] == pytest.approx(0.05, rel=0.2)
    assert clocks.seconds["outer"] == pytest.approx(0.02, rel=0.3)
