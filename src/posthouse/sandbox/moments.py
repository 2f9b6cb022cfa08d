"""Moments as integers: microseconds since 1970 on the rehearsal's clock."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from posthouse.model.ports import Clock

SECOND = 1_000_000

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def moment(clock: Clock) -> int:
    """The present moment."""
    return (clock.now() - _EPOCH) // _MICROSECOND


def as_datetime(at: int) -> datetime:
    """A moment as a date in UTC."""
    return _EPOCH + timedelta(microseconds=at)
