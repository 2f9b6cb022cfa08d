"""Rate limits of a provider, kept for each source address on the rehearsal's clock."""

from __future__ import annotations

from dataclasses import dataclass

from posthouse.sandbox.lots import Lots
from posthouse.sandbox.moments import SECOND
from posthouse.sandbox.personas import Rate, Refusal


@dataclass(slots=True)
class _Source:
    tokens: float
    at: int
    refused: int = 0
    refused_at: int = 0
    blocked_until: int = 0


class Throttle:
    """A token bucket for each source, with a limit drawn by lot and drawn again as time goes by."""

    def __init__(self, provider: str, rate: Rate, lots: Lots, scale: float, started: int) -> None:
        """scale: multiplies the file's limit; started: when the sandbox began, from which the periods are counted."""
        self._provider = provider
        self._rate = rate
        self._lots = lots
        self._scale = scale
        self._started = started
        self._period = -1
        self._limit = 0.0
        self._sources: dict[str, _Source] = {}

    def limit(self, now: int) -> float:
        """The size of the bucket in the present period, in messages: at least one."""
        rate = self._rate
        period = int((now - self._started) / (rate.redraw_seconds * SECOND))
        if period != self._period:
            self._period = period
            drawn = self._lots.between(1 - rate.spread, 1 + rate.spread, "rate", f"{self._provider} {period}")
            self._limit = max(1.0, rate.messages * drawn * self._scale)
        return self._limit

    def ask(self, ip: str, now: int) -> Refusal | None:
        """Take one message's allowance for a source; the refusal where there is none left."""
        limit = self.limit(now)
        source = self._sources.get(ip)
        if source is None:
            source = self._sources[ip] = _Source(limit, now)
        if source.blocked_until > now and self._rate.stubborn is not None:
            return self._rate.stubborn.reply
        refilled = source.tokens + (now - source.at) * limit / (self._rate.per_seconds * SECOND)
        source.tokens = min(limit, refilled)
        source.at = now
        if source.tokens >= 1:
            source.tokens -= 1
            return None
        return self._refuse(source, now)

    def _refuse(self, source: _Source, now: int) -> Refusal:
        stubborn = self._rate.stubborn
        if stubborn is None:
            return self._rate.reply
        if now - source.refused_at > stubborn.within_seconds * SECOND:
            source.refused = 0
            source.refused_at = now
        source.refused += 1
        if source.refused <= stubborn.patience:
            return self._rate.reply
        source.blocked_until = now + int(stubborn.block_seconds * SECOND)
        source.refused = 0
        return stubborn.reply
