"""kill -9 in the middle of a campaign, then everybody is counted: the small version of `make faults`."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from bench.fault_house import House, open_house
from bench.fault_judge import IN_FLIGHT, JUST_ANSWERED, WITHHELD, Kill, excuse_of
from bench.fault_points import Point, Target
from bench.faults import plan_rounds, play_round

from posthouse.sandbox import Record, RecordKind

_DOMAINS = {
    "plain1.example": "plain",
    "plain2.example": "plain",
    "grey.example": "greylister",
    "boxes.example": "mailboxes",
}
_RECIPIENTS = 400


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """Posthouse on a data directory of its own, with the sandbox's internet."""
    async with open_house(tmp_path / "house", domains=_DOMAINS) as opened:
        yield opened


@pytest.mark.parametrize(
    ("point", "target"),
    [(Point.GAP, Target.SENDER), (Point.RANDOM, Target.ALL), (Point.RANDOM, Target.POSTMASTER)],
)
async def test_nothing_is_lost_and_nothing_answered_is_doubled(house: House, point: Point, target: Target) -> None:
    result = await play_round(house, "small", point, target, _RECIPIENTS, random.Random(1), list(_DOMAINS))
    assert result.sighting is not None
    assert result.judgement is not None
    assert result.judgement.recipients == _RECIPIENTS
    assert not result.trouble
    assert not result.judgement.unexplained


@pytest.mark.parametrize(
    ("seconds", "ends_answers", "withheld", "excuse"),
    [
        (-0.06, True, False, None),
        (-0.04, True, False, JUST_ANSWERED),
        (-0.04, True, True, IN_FLIGHT),
        (0.1, True, False, IN_FLIGHT),
        (6.0, True, False, None),
        (6.0, True, True, WITHHELD),
        (-0.04, False, False, None),
        (0.1, False, False, None),
        (-60.0, False, True, WITHHELD),
    ],
)
def test_a_second_copy_is_excused_only_by_an_answer_that_could_not_be_kept(
    seconds: float, ends_answers: bool, withheld: bool, excuse: str | None
) -> None:
    copy = Record(RecordKind.DOT, 0, 1000.0 + seconds, "plain", "a@b.example", "", "<1@x>", 250, "OK", True, withheld)
    assert excuse_of(copy, Kill(1000.0, ends_answers)) == excuse


def test_forty_rounds_meet_every_point_three_times_and_every_target() -> None:
    planned = plan_rounds(42, 20_000)
    assert all(sum(point is each for each, _, _ in planned) >= 3 for point in Point)
    assert {target for _, target, _ in planned} == set(Target)
    assert all(size >= 20_000 for _, _, size in planned)
