"""Pacing: how much a sender may bring from one source to one site now (SMTP-23, answers 10).

The rate is a rule's, pulled down by what the provider lately deferred, and by ceilings that others set. After a refusal it falls at once
below what was accepted before; then it climbs back to that within minutes, and from there feels its way up slowly, never above the rule.

A path that has run dry opens again when some allowance has come together: half a second's worth, since a claim for one message costs as
much as for many; a whole block in a rehearsal, whose clock jumps from block to block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable

from posthouse.delivery.limits import SiteLimits
from posthouse.model.waiting import Ceiling, WaitReason

_SECOND = 1_000_000
# What may be saved up: after a pause, this many seconds' worth may leave together.
BLOCK_SECONDS = 20.0
# How far back "what was accepted" reaches.
_MEMORY_SECONDS = 120
_SLICE_SECONDS = 10
# A cut: to this share of what was accepted; when the last cut was not enough, to this share of the rate.
_CUT, _CUT_AGAIN = 0.85, 0.5
# Refusals in this time after a cut are those of what was under way.
_ECHO_SECONDS = 5.0
# A refusal so soon after a cut says that it was not enough.
_SOON_SECONDS = 45.0
_PAUSE_SECONDS = 10.0
# Seconds from a cut until the rate that was cut is reached again; what comes after is beyond what is known.
_CLIMB_SECONDS = 150.0
_SLOWEST = 1 / 60
# Deferrals that are nobody's fault count as a refusal when they are this many and this share of the attempts of a slice of time.
_FEW, _SHARE = 10, 0.1
_FIRST_GUESS = 1.0
# Messages a second below which a path has one sender.
_SLOW_PATH = 25.0
# Above this nothing is gained by counting.
_UNLIMITED = 5_000.0
_ANY = 1_000_000


class Pace:
    """The allowance of one sender from one source to one site. Times are microseconds since 1970.

    A path that turns out to be slow is served by one sender of the node alone: many that feel for a small rate hurt each other.
    """

    __slots__ = (
        "_accepted",
        "_at",
        "_ceilings",
        "_cut_at",
        "_cut_rate",
        "_deferred",
        "_deferred_in",
        "_is_dry",
        "_is_left",
        "_known",
        "_owns",
        "_rested_until",
        "_tokens",
        "_worth",
        "limits",
        "reply",
    )

    def __init__(self, limits: SiteLimits, now: int, *, owns: bool = True, worth: float = 0.5) -> None:
        """owns: whether this sender serves the path when it is slow. worth: seconds of allowance that open it when it ran dry."""
        self.limits = limits
        self._owns = owns
        self._worth = min(worth, BLOCK_SECONDS)
        self._is_dry = False
        self._is_left = False
        # The last words with which the provider asked for less.
        self.reply: str | None = None
        self._at = now
        self._cut_at: int | None = None
        self._cut_rate = 0.0
        self._known = 0.0
        self._rested_until = 0
        self._deferred_in = self._deferred = 0
        self._accepted: deque[list[int]] = deque(maxlen=_MEMORY_SECONDS // _SLICE_SECONDS)
        self._ceilings: tuple[Ceiling, ...] = ()
        self._tokens = self._most(self.rate(now))

    def rate(self, now: int) -> float | None:
        """Messages a second that may leave now; None for any number."""
        rates = [
            rate
            for rate in (self.limits.per_second, self._felt(now), *(c.per_second for c in self._in_force(now)))
            if rate is not None
        ]
        return min(rates) if rates else None

    def allowance(self, now: int) -> int:
        """How many messages may leave now."""
        if not self.limits.connections or now < self._rested_until:
            return 0
        rate = self._refill(now)
        if self._is_anothers:
            return 0
        room = _ANY if rate is None else 0 if self._is_dry else int(self._tokens)
        for ceiling in self._in_force(now):
            if ceiling.remaining is not None:
                room = min(room, ceiling.remaining)
        return max(room, 0)

    def take(self, count: int = 1) -> None:
        """That many leave."""
        self._tokens -= count
        self._is_dry = self._is_dry or self._tokens < 1
        if self._ceilings:
            self._ceilings = tuple(_less(ceiling, count) for ceiling in self._ceilings)

    def refund(self, count: int = 1) -> None:
        """That many did not leave after all."""
        self.take(-count)

    def accepted(self, now: int) -> None:
        """The provider took a message, or refused it for a reason that has nothing to do with us."""
        slice_ = now // (_SLICE_SECONDS * _SECOND)
        if not self._accepted or self._accepted[-1][0] != slice_:
            self._accepted.append([slice_, 0])
        self._accepted[-1][1] += 1

    def refused(self, now: int, reply: str) -> bool:
        """The provider asks for less. False when this is only the echo of a refusal that is known already."""
        self.reply = reply
        if self._cut_at is not None and now - self._cut_at < _ECHO_SECONDS * _SECOND:
            return False
        rate, took = self.rate(now), self._took(now)
        soon = self._cut_at is not None and now - self._cut_at < _SOON_SECONDS * _SECOND
        # What it took is what it takes, unless more was tried than was taken; a provider that took nothing is felt for from below.
        self._known = min(rate or took, took) if took else (rate or _FIRST_GUESS) * _CUT_AGAIN
        self._cut_rate = max(self._known * (_CUT_AGAIN if soon else _CUT), _SLOWEST)
        self._cut_at = now
        self._tokens = 0.0
        self._is_dry = True
        self._at = now + int(_PAUSE_SECONDS * _SECOND)
        return True

    def deferred(self, now: int, reply: str) -> bool:
        """The provider put a message off for reasons of its own; many of these are a refusal. True when this one made it so."""
        slice_ = now // (_SLICE_SECONDS * _SECOND)
        if slice_ != self._deferred_in:
            self._deferred_in, self._deferred = slice_, 0
        self._deferred += 1
        taken = sum(count for when, count in self._accepted if when >= slice_ - 1)
        if self._deferred < _FEW or self._deferred < _SHARE * (self._deferred + taken):
            return False
        self._deferred = 0
        return self.refused(now, reply)

    def rest(self, until: int, reply: str) -> None:
        """Nothing may leave before `until`."""
        self.reply = reply
        self._rested_until = max(self._rested_until, until)

    def leave(self, *, to_owner: bool) -> None:
        """Whether the sender that serves the path when it is slow does so now."""
        self._is_left = to_owner and not self._owns

    def set_ceilings(self, ceilings: Iterable[Ceiling]) -> None:
        """The ceilings for this path, in place of those before."""
        self._ceilings = tuple(ceilings)

    @property
    def is_slow(self) -> bool:
        """Whether so little is taken that one sender is enough."""
        return self._cut_at is not None and self._known < _SLOW_PATH

    @property
    def is_cut(self) -> bool:
        """Whether the rate is below the rule because of what the provider said."""
        return self._cut_at is not None

    def blocked(self, now: int) -> tuple[WaitReason, int] | None:
        """Why nothing may leave now, and when to look again (a block's worth of allowance, or the end of what is in the way)."""
        if not self.limits.connections:
            return WaitReason.CONNECTION_LIMIT, now + 3600 * _SECOND
        if now < self._rested_until:
            return WaitReason.SITE_RESTING, self._rested_until
        for ceiling in self._in_force(now):
            spent = ceiling.remaining is not None and ceiling.remaining < 1
            if spent or ceiling.per_second == 0:
                end = now + 60 * _SECOND if ceiling.until is None else int(ceiling.until.timestamp() * _SECOND)
                return ceiling.reason, end
        rate = self._refill(now)
        if self._is_anothers:
            return WaitReason.RATE_LIMIT, now + 3600 * _SECOND
        if rate is None or not self._is_dry:
            return None
        tight = next((c.reason for c in self._in_force(now) if c.per_second == rate), WaitReason.RATE_LIMIT)
        return tight, max(now, self._at) + int((self._opens_at(rate) - self._tokens) / max(rate, 1e-9) * _SECOND) + 1

    @property
    def _is_anothers(self) -> bool:
        return self._is_left or (not self._owns and self.is_slow)

    def _in_force(self, now: int) -> list[Ceiling]:
        return [c for c in self._ceilings if c.until is None or c.until.timestamp() * _SECOND > now]

    def _refill(self, now: int) -> float | None:
        rate = self.rate(now)
        if rate is not None and now > self._at:
            self._tokens = min(self._tokens + rate * (now - self._at) / _SECOND, self._most(rate))
        self._at = max(self._at, now)
        if rate is not None:
            self._is_dry = self._tokens < (self._opens_at(rate) if self._is_dry else 1.0)
        return rate

    def _opens_at(self, rate: float) -> float:
        return max(1.0, rate * self._worth)

    def _most(self, rate: float | None) -> float:
        return 0.0 if rate is None else max(1.0, rate * BLOCK_SECONDS)

    def _felt(self, now: int) -> float | None:
        """The rate that the provider's own words leave: a cubic that is flat where it was last refused."""
        if self._cut_at is None:
            return None
        seconds = max(0.0, (now - self._cut_at) / _SECOND - _PAUSE_SECONDS)
        away = 1 - seconds / _CLIMB_SECONDS
        felt = self._known - (self._known - self._cut_rate) * away**3
        if felt > _UNLIMITED or (self.limits.per_second is not None and felt >= 4 * self.limits.per_second):
            self._cut_at = None
        return max(felt, self._cut_rate)

    def _took(self, now: int) -> float:
        """Messages a second that were accepted lately."""
        oldest = now // (_SLICE_SECONDS * _SECOND) - _MEMORY_SECONDS // _SLICE_SECONDS
        recent = [each for each in self._accepted if each[0] > oldest]
        if not recent:
            return 0.0
        seconds = max(_SLICE_SECONDS, now / _SECOND - recent[0][0] * _SLICE_SECONDS)
        return sum(count for _, count in recent) / seconds


def _less(ceiling: Ceiling, count: int) -> Ceiling:
    if ceiling.remaining is None:
        return ceiling
    return Ceiling(
        ceiling.source_id,
        ceiling.site_id,
        ceiling.per_second,
        ceiling.remaining - count,
        ceiling.until,
        ceiling.reason,
        ceiling.why,
    )
