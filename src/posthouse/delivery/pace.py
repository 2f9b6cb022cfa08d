"""How much of a lane a sender holds: about two seconds of what it lately got rid of."""

from __future__ import annotations

import time

_SECONDS_HELD = 2.0
_MOST_HELD = 4_000
_SMOOTHING = 0.5


class LanePace:
    """Counts one lane's messages in the exchange and follows its rate."""

    FIRST_ROOM = 40

    __slots__ = ("_rate", "_released", "_ticked", "held")

    def __init__(self) -> None:
        self.held = 0
        self._released = 0
        self._rate = 0.0
        self._ticked = time.monotonic()

    def released(self) -> None:
        """A message left with an answer."""
        self.held -= 1
        self._released += 1

    @property
    def is_still(self) -> bool:
        """Whether nothing is here, and nothing left lately."""
        return not self.held and not self._released and self._rate < 1.0

    def room(self) -> int:
        """How many more to claim, 0 until half of what the lane may hold is gone: a claim for few rows costs as much as for many.

        The rate of the running second counts at once when it is higher, so a lane starts fast.
        """
        elapsed = max(time.monotonic() - self._ticked, 0.05)
        rate = max(self._rate, self._released / elapsed)
        target = min(max(self.FIRST_ROOM, int(rate * _SECONDS_HELD)), _MOST_HELD)
        free = target - self.held
        return free if free * 2 >= target else 0

    def tick(self, now: float) -> None:
        """Once a second: smooth the rate."""
        elapsed = max(now - self._ticked, 0.001)
        self._rate += _SMOOTHING * (self._released / elapsed - self._rate)
        self._released = 0
        self._ticked = now
