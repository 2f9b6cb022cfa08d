"""The health of a source: out when it fails again and again, tried with one message after a growing pause, back when that goes through.

Only an outage counts: no way to the other side, or its own trouble. A refusal, whatever it says about our reputation, is a sign of life,
and never a reason to send the message another way (SMTP-22). Pure: a value, and every moment from the caller's monotonic clock.
"""

from __future__ import annotations

from msgspec import Struct, structs

from posthouse.delivery.job import Answer
from posthouse.mail.replies import Failure, Stage
from posthouse.model.closed_list import ClosedList
from posthouse.model.outcomes import BounceClass, Reaction, Scope, Verdict

_TROUBLE = frozenset((BounceClass.NETWORK, BounceClass.DNS, BounceClass.TLS, BounceClass.SERVER_BUSY))
# Before it knows of a user or a message, the other side speaks about itself or about us.
_BEFORE_MAIL = frozenset((Stage.CONNECT, Stage.GREETING, Stage.EHLO, Stage.STARTTLS))


class Condition(ClosedList):
    """What may be sent through a source."""

    HEALTHY = "healthy", "It works."
    OUTAGE = "outage", "It does not work; nothing goes there."
    PROBE_DUE = "probe-due", "It did not work a while ago; the next message tries it."
    PROBING = "probing", "One message is trying whether it works again."


class Tolerance(Struct, frozen=True):
    """When an outage begins and how it is looked into; seconds.

    failures within `window`, with no success between them and from `sites` different sites, are an outage: a direct source needs several
    sites, because one provider's trouble is not the source's. probe: when a probe that nobody heard of again counts as lost.
    """

    failures: int = 5
    window: float = 60.0
    sites: int = 1
    first_pause: float = 30.0
    longest_pause: float = 900.0
    probe: float = 120.0


RELAY_TOLERANCE = Tolerance()
DIRECT_TOLERANCE = Tolerance(failures=10, sites=3)


class Health(Struct, frozen=True):
    """The health of one source. failures: moment and site of the recent ones; probe_at: when the next probe is due, in an outage.

    pause: how long the present or last outage waited; back: when that one ended. An outage soon after another goes on with its pauses.
    """

    tolerance: Tolerance
    failures: tuple[tuple[float, int], ...] = ()
    probe_at: float | None = None
    probe_ends: float | None = None
    pause: float = 0.0
    back: float | None = None

    def condition(self, now: float) -> Condition:
        """What may be sent through the source now."""
        if self.probe_at is None:
            return Condition.HEALTHY
        if self.probe_ends is not None and now < self.probe_ends:
            return Condition.PROBING
        return Condition.PROBE_DUE if now >= self.probe_at else Condition.OUTAGE

    def succeeded(self, now: float) -> Health:
        """The other side answered a message, whatever it said of it. In an outage only the probe's answer counts."""
        match self.condition(now):
            case Condition.HEALTHY:
                return structs.replace(self, failures=()) if self.failures else self
            case Condition.PROBING:
                return Health(self.tolerance, pause=self.pause, back=now)
            case _:
                return self

    def failed(self, now: float, site_id: int) -> Health:
        """A message met an outage (`is_outage`) on its way to a site."""
        match self.condition(now):
            case Condition.HEALTHY:
                kept = tuple(failure for failure in self.failures if now - failure[0] < self.tolerance.window)
                # More than the count of distinct sites need not be kept, however many messages fail.
                failures = (*kept[-self.tolerance.failures - self.tolerance.sites :], (now, site_id))
                sites = {site for _, site in failures}
                if len(failures) < self.tolerance.failures or len(sites) < self.tolerance.sites:
                    return structs.replace(self, failures=failures)
                return self._opened(now)
            case Condition.PROBING:
                return self._opened(now)
            case _:
                return self

    def probe_began(self, now: float) -> Health:
        """A message was given to a source whose probe was due; until it is answered no other one goes there."""
        if self.condition(now) is not Condition.PROBE_DUE:
            return self
        return structs.replace(self, probe_ends=now + self.tolerance.probe)

    def _opened(self, now: float) -> Health:
        again = self.probe_at is not None or (self.back is not None and now - self.back < self.tolerance.longest_pause)
        pause = (
            min(2 * self.pause, self.tolerance.longest_pause) if again and self.pause else self.tolerance.first_pause
        )
        return Health(self.tolerance, probe_at=now + pause, pause=pause)


# Somebody's certificate or policy is wrong, whichever way mail comes.
_POLICY_OF_ONE_DOMAIN = frozenset(
    {
        Failure.CERTIFICATE_NAME,
        Failure.CERTIFICATE_EXPIRED,
        Failure.CERTIFICATE_UNTRUSTED,
        Failure.STS_NO_MX,
        Failure.TLSA_MISMATCH,
        Failure.TLSA_UNANSWERED,
        Failure.DANE_MISSING,
    }
)


def is_outage(answer: Answer, verdict: Verdict) -> bool:
    """Whether an answer says that its source does not work at all: another one may take what waits for it.

    Over HTTP: no answer, 5xx, or something that is not the relay. Over SMTP: no connection, a broken one, or trouble of the server's own
    (421 and the like) before MAIL; the dialler has then tried every host. A block that is said at connect is no outage.
    """
    if verdict.permanent or answer.failure in _POLICY_OF_ONE_DOMAIN:
        return False
    if verdict.scope is Scope.RELAY and answer.verdict is not None:
        return verdict.bounce_class in _TROUBLE or (verdict.bounce_class is BounceClass.PROTOCOL and _retries(verdict))
    if verdict.bounce_class not in _TROUBLE:
        return False
    return answer.failure is not None or answer.stage in _BEFORE_MAIL


def _retries(verdict: Verdict) -> bool:
    return verdict.reaction is Reaction.RETRY
