"""Pacing against providers whose limit nobody tells, on a clock of its own."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.delivery.limits import SiteLimits
from posthouse.delivery.pacing import BLOCK_SECONDS, Pace
from posthouse.model.waiting import Ceiling, WaitReason

SECOND = 1_000_000
HOUR = 3600 * SECOND


class Provider:
    """A bucket of `size` messages that fills in `seconds`; its size changes each hour by up to 30 %. Counts what it refuses."""

    def __init__(self, size: float, seconds: float, seed: int) -> None:
        self._chance = random.Random(seed)
        self._size = size
        self._seconds = seconds
        self._limit = self._drawn()
        self._tokens = self._limit
        self._at = 0
        self._redrawn = 0
        self.capacity = self._limit
        self.accepted = 0
        self.refused: list[int] = []

    def take(self, now: int) -> bool:
        self._pass(now)
        if self._tokens < 1:
            self.refused.append(now)
            return False
        self._tokens -= 1
        self.accepted += 1
        return True

    def _pass(self, now: int) -> None:
        earned = (now - self._at) / SECOND * self._limit / self._seconds
        self.capacity += earned
        self._tokens = min(self._limit, self._tokens + earned)
        self._at = now
        if now - self._redrawn >= HOUR:
            self._redrawn = now
            self._limit = self._drawn()

    def _drawn(self) -> float:
        return self._size * self._chance.uniform(0.7, 1.3)

    @property
    def worst_quarter(self) -> int:
        """The most refusals within 15 minutes."""
        return max((sum(at <= other < at + 900 * SECOND for other in self.refused) for at in self.refused), default=0)


def send(provider: Provider, paces: list[Pace], until: int, under_way: int) -> None:
    """Send without end; each refusal is followed by `under_way` more, for what had been sent by then."""
    now = 0
    while now < until:
        for pace in paces:
            for _ in range(pace.allowance(now)):
                pace.take()
                if provider.take(now):
                    pace.accepted(now)
                else:
                    pace.refused(now, "421 slow down")
                    for _ in range(under_way):
                        provider.take(now)
                        pace.refused(now, "421 slow down")
                    break
        slow = any(pace.is_slow for pace in paces)
        for pace in paces:
            pace.leave(to_owner=slow)
        waits = [blocked[1] if (blocked := pace.blocked(now)) else now for pace in paces]
        now = max(now + 100_000, min(waits))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("size", "seconds"), [(500, 120), (1000, 60), (50, 60), (4000, 60)])
def test_an_unknown_limit_is_used_and_not_fought_with(size: float, seconds: float, seed: int) -> None:
    """At least nine tenths of what the provider takes, and never as many refusals as end in a block (100 in 15 minutes, S3150)."""
    provider = Provider(size, seconds, seed)
    paces = [Pace(SiteLimits(5, 100, 50.0), 0, owns=slot == 0, worth=BLOCK_SECONDS) for slot in range(2)]
    send(provider, paces, 2 * HOUR, under_way=3)
    rule = 2 * 50.0 * 7200
    assert provider.accepted >= 0.9 * min(provider.capacity, rule)
    assert provider.worst_quarter < 100


def test_it_falls_at_once_and_recovers_slowly() -> None:
    """SMTP-23."""
    pace = Pace(SiteLimits(per_second=100.0), 0)
    for second in range(60):
        for _ in range(50):
            pace.accepted(second * SECOND)
    now = 60 * SECOND
    assert pace.rate(now) == 100
    assert pace.refused(now, "421 slow down")
    assert pace.reply == "421 slow down"
    assert pace.rate(now) == pytest.approx(50 * 0.85, rel=0.05)
    assert pace.allowance(now) == 0
    blocked = pace.blocked(now)
    assert blocked is not None
    assert blocked[0] is WaitReason.RATE_LIMIT
    assert blocked[1] > now + 10 * SECOND
    assert not pace.refused(now + SECOND, "421 slow down"), "what was under way says the same"
    rates = [pace.rate(now + seconds * SECOND) or 0.0 for seconds in range(0, 400, 10)]
    assert all(before <= after for before, after in pairwise(rates))
    assert rates[9] < 50 < rates[25]
    assert rates[-1] <= 100


def test_a_refusal_soon_after_a_cut_cuts_deep() -> None:
    pace = Pace(SiteLimits(per_second=100.0), 0)
    now, rates = 0, []
    for _ in range(4):
        pace.refused(now, "421")
        rates.append(pace.rate(now) or 0.0)
        now += 20 * SECOND
    assert all(after <= 0.6 * before for before, after in pairwise(rates))


def test_many_deferrals_are_a_refusal_and_few_are_none() -> None:
    pace = Pace(SiteLimits(per_second=100.0), 0)
    for _ in range(200):
        pace.accepted(SECOND)
    assert not any(pace.deferred(SECOND, "451 busy") for _ in range(15)), "under a tenth"
    assert any(pace.deferred(SECOND, "451 busy") for _ in range(15))
    lonely = Pace(SiteLimits(per_second=100.0), 0)
    assert not any(lonely.deferred(SECOND, "451 busy") for _ in range(9)), "too few to say"


def test_what_is_slow_belongs_to_one_sender() -> None:
    owner, other = (Pace(SiteLimits(per_second=50.0), 0, owns=owns) for owns in (True, False))
    for pace in (owner, other):
        for _ in range(20):
            pace.accepted(0)
        pace.refused(SECOND, "421")
    now = 60 * SECOND
    assert owner.allowance(now) > 0
    assert other.allowance(now) == 0
    assert other.blocked(now) is not None


def test_a_dry_path_opens_when_some_allowance_has_come_together() -> None:
    pace = Pace(SiteLimits(per_second=10.0), 0, worth=5.0)
    pace.take(pace.allowance(0))
    assert pace.allowance(4 * SECOND) == 0
    blocked = pace.blocked(4 * SECOND)
    assert blocked is not None
    assert pace.allowance(blocked[1] - SECOND // 10) == 0
    assert pace.allowance(blocked[1]) == 50
    assert pace.blocked(blocked[1]) is None


def test_a_rest_holds_everything_until_its_end() -> None:
    pace = Pace(SiteLimits(per_second=10.0), 0)
    pace.rest(HOUR, "550 blocked")
    pace.rest(HOUR // 2, "550 shorter")
    assert pace.allowance(HOUR - 1) == 0
    assert pace.blocked(HOUR - 1) == (WaitReason.SITE_RESTING, HOUR)
    assert pace.allowance(HOUR) > 0


def test_ceilings_bind_while_they_last_and_tell_their_reason() -> None:
    end = datetime.fromtimestamp(3600, UTC)
    pace = Pace(SiteLimits(), 0)
    assert pace.allowance(0) > 10_000
    pace.set_ceilings([Ceiling(None, 3, None, 7, end, WaitReason.SOURCE_UNAVAILABLE)])
    assert pace.allowance(0) == 7
    pace.take(7)
    assert pace.allowance(SECOND) == 0
    assert pace.blocked(SECOND) == (WaitReason.SOURCE_UNAVAILABLE, HOUR)
    pace.refund(2)
    assert pace.allowance(SECOND) == 2
    assert pace.allowance(HOUR) > 10_000
    slow = Pace(SiteLimits(per_second=100.0), 0)
    slow.set_ceilings([Ceiling(None, None, 0.5, None, None, WaitReason.SOURCE_UNAVAILABLE)])
    assert slow.rate(0) == 0.5
    slow.allowance(0)
    slow.take(2000)
    blocked = slow.blocked(0)
    assert blocked is not None
    assert blocked[0] is WaitReason.SOURCE_UNAVAILABLE


def test_a_sender_without_a_connection_sends_nothing() -> None:
    pace = Pace(SiteLimits(connections=0), 0)
    assert pace.allowance(HOUR) == 0
    blocked = pace.blocked(HOUR)
    assert blocked is not None
    assert blocked[0] is WaitReason.CONNECTION_LIMIT


@settings(max_examples=60)
@given(st.lists(st.tuples(st.integers(0, 90), st.sampled_from(["send", "refuse", "accept", "refund"])), max_size=60))
def test_it_never_goes_above_the_rule(steps: list[tuple[int, str]]) -> None:
    """Whatever happens: in any stretch of time no more than the rule gives, and a block that was saved up."""
    rule, now, sent = 5.0, 0, 0
    pace = Pace(SiteLimits(per_second=rule), 0)
    for seconds, step in steps:
        now += seconds * SECOND
        if step == "send":
            count = pace.allowance(now)
            pace.take(count)
            sent += count
        elif step == "refuse":
            pace.refused(now, "421")
        elif step == "accept":
            pace.accepted(now)
        elif sent:
            pace.refund()
            sent -= 1
        assert (pace.rate(now) or 0) <= rule
        assert sent <= rule * (now / SECOND + BLOCK_SECONDS)
