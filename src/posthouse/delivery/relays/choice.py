"""Which source of a pool a message takes: a pure function of the pool as it is now and of what the message allows.

Our own addresses come first (the lowest tier), and a later tier opens only when every source before it is out of order or has been taken
out by a person; never because a provider dislikes us (SMTP-22). Within a tier the cheapest go first, and equal ones share by weight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from posthouse.delivery.relays.health import Condition
from posthouse.model.closed_list import ClosedList


class NoSource(ClosedList):
    """Why no source takes a message now."""

    NOT_IN_POOL = "source-not-in-pool", "The source that the message is tied to is no longer in the pool."
    NONE_FITS = "no-source-fits", "No source of the pool may carry this stream and these domains."
    PAUSED = "source-paused", "A person has paused the sources that fit."
    HELD = "source-held", "The relay has stopped our account there; a person must see to it."
    OUTAGE = "source-outage", "The sources that fit do not work at the moment; they are tried again by themselves."
    NO_ROOM = "source-full", "The sources that fit have no room now: a limit, a quota or a warm-up."


class Entry(Struct, frozen=True):
    """One source in a pool, as it is now.

    tier: lower goes first, 0 is for our own addresses; weight: share among equals, 0 takes none of what is not tied to it; cost: per 1,000
    messages. has_room: whether its limits let one more message go. overflows: when it has no room the message may take another source of
    its tier or a later one (a warm-up, a quota); otherwise the message waits for it. paused: a person took it out; draining: it sends only
    what is tied to it; held: the relay has stopped our account or refuses our credentials, and a person must see to it. The sets say what
    it may carry; empty: everything.
    """

    source_id: int
    tier: int = 0
    weight: int = 1
    cost: float = 0.0
    paused: bool = False
    draining: bool = False
    held: bool = False
    condition: Condition = Condition.HEALTHY
    has_room: bool = True
    overflows: bool = False
    streams: frozenset[str] = frozenset()
    from_domains: frozenset[str] = frozenset()
    to_domains: frozenset[str] = frozenset()


class Needs(Struct, frozen=True):
    """What a message asks of its source; domains as A-labels in lower case. pinned_source: the only one that may take it."""

    stream: str
    from_domain: str
    to_domain: str
    pinned_source: int | None = None


def choose(pool: Sequence[Entry], needs: Needs, draw: float) -> int | NoSource:
    """The id of the source that takes the message, or why none does.

    draw: a number in [0, 1) from the caller's chance, which decides among equals. A source whose probe is due counts as one that works:
    the caller must tell its health that the probe began.
    """
    if needs.pinned_source is not None:
        return _pinned(pool, needs.pinned_source)
    fitting = [entry for entry in pool if _fits(entry, needs) and entry.weight > 0]
    if not fitting:
        return NoSource.NONE_FITS
    reason = NoSource.PAUSED
    for tier in sorted({entry.tier for entry in fitting}):
        entries = [e for e in fitting if e.tier == tier and not e.paused and not e.draining]
        works = [e for e in entries if not e.held and _works(e)]
        if ready := [e for e in works if e.has_room]:
            return _drawn(ready, draw)
        if works:
            reason = NoSource.NO_ROOM
            if not all(e.overflows for e in works):
                return reason
        elif any(e.held for e in entries):
            # The relay thinks ill of us: going round it is for a person to decide, by pausing it.
            return NoSource.HELD
        elif entries and reason is not NoSource.NO_ROOM:
            reason = NoSource.OUTAGE
    return reason


def _pinned(pool: Iterable[Entry], source_id: int) -> int | NoSource:
    entry = next((entry for entry in pool if entry.source_id == source_id), None)
    if entry is None:
        return NoSource.NOT_IN_POOL
    if entry.paused:
        return NoSource.PAUSED
    if entry.held:
        return NoSource.HELD
    if not _works(entry):
        return NoSource.OUTAGE
    return source_id if entry.has_room else NoSource.NO_ROOM


def _fits(entry: Entry, needs: Needs) -> bool:
    return (
        (not entry.streams or needs.stream in entry.streams)
        and (not entry.from_domains or needs.from_domain in entry.from_domains)
        and (not entry.to_domains or needs.to_domain in entry.to_domains)
    )


def _works(entry: Entry) -> bool:
    return entry.condition in (Condition.HEALTHY, Condition.PROBE_DUE)


def _drawn(ready: Sequence[Entry], draw: float) -> int:
    """A probe goes first, whatever it costs: it is one message, and the only way back. Else the cheapest, by weight."""
    probes = [entry for entry in ready if entry.condition is Condition.PROBE_DUE]
    if probes:
        return probes[0].source_id
    lowest = min(entry.cost for entry in ready)
    equals = [entry for entry in ready if entry.cost == lowest]
    point = draw * sum(entry.weight for entry in equals)
    for entry in equals:
        point -= entry.weight
        if point < 0:
            return entry.source_id
    return equals[-1].source_id
