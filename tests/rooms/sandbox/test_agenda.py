"""Acts happen when the clock says so, a limited number at once, and are given up after some tries."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from functools import partial
from itertools import pairwise
from pathlib import Path

from posthouse.clock import JumpingClock
from posthouse.sandbox import RecordKind, read_status
from posthouse.sandbox.agenda import Agenda
from posthouse.sandbox.moments import SECOND, moment
from posthouse.sandbox.status import Status, StatusFile


async def test_acts_wait_for_the_clock_and_run_in_its_order(tmp_path: Path) -> None:
    clock = JumpingClock(tmp_path / "clock")
    agenda = Agenda(clock)
    done: list[int] = []

    async def act(number: int) -> bool:
        done.append(number)
        return True

    now = moment(clock)
    for number in (3, 1, 2):
        agenda.put(now + number * 3600 * SECOND, RecordKind.OPENED, partial(act, number))
    assert (agenda.next_due, agenda.last_due) == (now + 3600 * SECOND, now + 3 * 3600 * SECOND)
    agenda.start_due()
    await asyncio.sleep(0)
    assert done == []
    clock.jump_to(clock.now() + timedelta(hours=2, seconds=1))
    agenda.start_due()
    assert (agenda.in_flight, agenda.pending["opened"]) == (2, 3)
    await asyncio.sleep(0.01)
    assert done == [1, 2]
    assert (agenda.in_flight, agenda.pending["opened"], agenda.next_due) == (0, 1, now + 3 * 3600 * SECOND)


async def test_many_acts_at_once_are_kept_within_bounds(tmp_path: Path) -> None:
    clock = JumpingClock(tmp_path / "clock")
    agenda = Agenda(clock)
    running = most = done = 0

    async def act() -> bool:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done += 1
        return True

    for _ in range(500):
        agenda.put(0, RecordKind.OPENED, act)
    agenda.start_due()
    while agenda.in_flight:
        await asyncio.sleep(0)
    assert (done, most) == (500, 48)
    assert agenda.next_due is None


async def test_what_never_succeeds_is_given_up(tmp_path: Path) -> None:
    clock = JumpingClock(tmp_path / "clock")
    agenda = Agenda(clock, breath_seconds=0)
    tries: list[int] = []

    async def act() -> bool:
        tries.append(moment(clock))
        return False

    agenda.put(0, RecordKind.DSN, act)
    while agenda.pending["dsn"]:
        agenda.start_due()
        await asyncio.sleep(0)
        clock.jump_to(clock.now() + timedelta(minutes=1))
    assert len(tries) == 8
    assert min(later - earlier for earlier, later in pairwise(tries)) >= 300 * SECOND


async def test_closing_cuts_what_runs_short(tmp_path: Path) -> None:
    agenda = Agenda(JumpingClock(tmp_path / "clock"))
    agenda.put(0, RecordKind.DSN, lambda: asyncio.sleep(3600, True))
    agenda.start_due()
    await asyncio.sleep(0)
    await agenda.close()
    assert agenda.pending["dsn"] == 0


def test_the_status_file_changes_only_with_the_status(tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    file = StatusFile(path)
    first = Status(0, 100, {"dot": 3}, {}, {"opened": 1}, 0, 900, 950)
    file.write(first)
    file.write(Status(0, 200, {"dot": 3}, {}, {"opened": 1}, 0, 900, 950))
    assert (read_status(path).serial, read_status(path).at) == (1, 100)
    file.write(Status(0, 300, {"dot": 4}, {}, {"opened": 1}, 0, 900, 950))
    status = read_status(path)
    assert (status.serial, status.at) == (2, 300)
    assert [status.is_quiet(copies, now) for copies, now in ((4, 899), (5, 899), (4, 900))] == [True, False, False]
    assert not Status(0, 0, {"dot": 4}, {}, {}, 1, None, None).is_quiet(4, 0)
    assert Status(0, 0, {"dot": 4}, {}, {}, 0, None, None).is_quiet(4, 0)
