"""When a deferred message is tried again (SMTP-2, SMTP-3, SMTP-21)."""

from __future__ import annotations

from msgspec import Struct

from posthouse.model.outcomes import BounceClass, Verdict
from posthouse.model.ports import Chance

# RFC 6647 §5: greylisting lifts after minutes; the first retry comes before the provider forgets us.
_GREYLIST_FIRST_SECONDS = 6 * 60.0


class RetrySchedule(Struct, frozen=True):
    """Growing, jittered pauses. All in seconds; life is counted from the moment of queueing."""

    first: float = 1800.0
    longest: float = 8 * 3600.0
    life: float = 5 * 86400.0
    jitter: float = 0.2

    def pause(self, attempt: int, verdict: Verdict, chance: Chance) -> float:
        """How long to wait after attempt number `attempt` (1 is the first) was deferred for `verdict`.

        The pause doubles with every attempt; a rule's own retry_after is a floor, and jitter only lengthens, so that a provider's
        wish is never cut short.
        """
        if verdict.bounce_class is BounceClass.GREYLIST and attempt <= 2:
            pause = _GREYLIST_FIRST_SECONDS * attempt
        else:
            pause = min(self.first * 2.0 ** min(attempt - 1, 16), self.longest)
        if verdict.retry_after is not None:
            pause = max(pause, verdict.retry_after) if attempt > 1 else verdict.retry_after
        return pause * (1.0 + self.jitter * chance.random())
