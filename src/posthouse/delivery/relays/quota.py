"""What a relay's account may send: as the relay tells it, and as one line keeps to it."""

from __future__ import annotations

import math

from msgspec import Struct


class Quota(Struct, frozen=True):
    """An account's limits and use.

    per_second: messages a second; per_day: messages in any 24 hours, None when there is no limit; sent: those of the last 24 hours.
    may_send: whether the account sends at all; obstacle: one sentence for people where something about the account is amiss.
    """

    per_second: float
    per_day: float | None
    sent: float
    may_send: bool = True
    obstacle: str | None = None

    @property
    def remaining(self) -> float | None:
        """Messages that may still go now; None when there is no limit. An account that may not send has none."""
        if not self.may_send:
            return 0.0
        return None if self.per_day is None else max(0.0, self.per_day - self.sent)


class Allowance:
    """How fast one line may send its share of an account's quota. Pure: every moment comes from the caller's monotonic clock.

    A bucket holds at most one second's worth, so that a pause is not made up for by a burst that the relay would refuse.
    """

    def __init__(self, share: float = 1.0) -> None:
        """share: this line's part of the account, in (0, 1]; the shares of all lines sum to 1."""
        self._share = share
        self._rate: float | None = None
        self._left: float | None = None
        self._tokens = 0.0
        self._at = 0.0

    def learn(self, quota: Quota, now: float) -> None:
        """Keep to this quota from now on."""
        self._refill(now)
        is_first = self._rate is None
        self._rate = quota.per_second * self._share
        self._tokens = self._burst if is_first else min(self._tokens, self._burst)
        self._at = now
        remaining = quota.remaining
        self._left = None if remaining is None else remaining * self._share

    def take(self, now: float) -> float:
        """Take leave to send one message: 0 when it was given, else as `seconds_left`."""
        pause = self.seconds_left(now)
        if pause == 0.0:
            if self._rate is not None:
                self._tokens -= 1.0
            if self._left is not None:
                self._left -= 1.0
        return pause

    def seconds_left(self, now: float) -> float:
        """Seconds until one more message may go.

        A day's limit that is used up comes back bit by bit over 24 hours; when is known at the next `learn`, so the answer is infinite.
        """
        if self._left is not None and self._left < 1.0:
            return math.inf
        self._refill(now)
        if self._rate is None or self._tokens >= 1.0:
            return 0.0
        return (1.0 - self._tokens) / self._rate if self._rate > 0 else math.inf

    def give_back(self) -> None:
        """What was taken was not used after all."""
        if self._rate is not None:
            self._tokens = min(self._tokens + 1.0, self._burst)
        if self._left is not None:
            self._left += 1.0

    @property
    def _burst(self) -> float:
        return max(1.0, self._rate or 0.0)

    def _refill(self, now: float) -> None:
        if self._rate is not None:
            self._tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
            self._at = now
