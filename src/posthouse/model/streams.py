"""Streams: what kind of mail a message is, which decides who goes first and from where."""

from __future__ import annotations

from posthouse.model.closed_list import ClosedList


class Stream(ClosedList):
    """A kind of mail of a workspace."""

    SYSTEM = "system", "Posthouse's own notices."
    TRANSACTIONAL = "transactional", "What somebody waits for: password resets, receipts."
    BROADCAST = "broadcast", "Campaigns."

    @property
    def priority(self) -> int:
        """The priority of its lanes: a lower number goes first."""
        return _PRIORITIES[self]


_PRIORITIES = {Stream.SYSTEM: 1, Stream.TRANSACTIONAL: 2, Stream.BROADCAST: 5}


def stream_of(priority: int) -> Stream:
    """The stream whose lanes have this priority; lanes of any other are broadcasts."""
    return next((stream for stream, own in _PRIORITIES.items() if own == priority), Stream.BROADCAST)
