"""What must hold of the choice of a source and of a source's health, whatever the pool and whatever happens."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from posthouse.delivery.relays import Condition, Entry, Health, Needs, NoSource, Tolerance, choose

STREAMS = ("broadcast", "transactional")
DOMAINS = ("a.example", "b.example")
SETS = st.frozensets(st.sampled_from(STREAMS), max_size=1)
DOMAIN_SETS = st.frozensets(st.sampled_from(DOMAINS), max_size=1)
ENTRIES = st.builds(
    Entry,
    source_id=st.integers(1, 6),
    tier=st.integers(0, 2),
    weight=st.integers(0, 5),
    cost=st.sampled_from([0.0, 0.1, 1.0]),
    paused=st.booleans(),
    draining=st.booleans(),
    held=st.booleans(),
    condition=st.sampled_from(Condition),
    has_room=st.booleans(),
    overflows=st.booleans(),
    streams=SETS,
    from_domains=DOMAIN_SETS,
    to_domains=DOMAIN_SETS,
)
POOLS = st.lists(ENTRIES, max_size=6, unique_by=lambda entry: entry.source_id)
NEEDS = st.builds(
    Needs,
    stream=st.sampled_from(STREAMS),
    from_domain=st.sampled_from(DOMAINS),
    to_domain=st.sampled_from(DOMAINS),
    pinned_source=st.none() | st.integers(1, 6),
)
DRAWS = st.floats(0, 1, exclude_max=True)


def _usable(entry: Entry) -> bool:
    return entry.has_room and entry.condition in (Condition.HEALTHY, Condition.PROBE_DUE)


def _fits(entry: Entry, needs: Needs) -> bool:
    return all(
        not allowed or wanted in allowed
        for allowed, wanted in (
            (entry.streams, needs.stream),
            (entry.from_domains, needs.from_domain),
            (entry.to_domains, needs.to_domain),
        )
    )


@given(POOLS, NEEDS, DRAWS)
def test_only_a_source_that_may_and_can_is_chosen(pool: list[Entry], needs: Needs, draw: float) -> None:
    chosen = choose(pool, needs, draw)
    if isinstance(chosen, NoSource):
        return
    entry = next(entry for entry in pool if entry.source_id == chosen)
    assert _usable(entry)
    assert not entry.paused
    assert not entry.held
    if needs.pinned_source is None:
        assert not entry.draining
        assert entry.weight > 0
        assert _fits(entry, needs)


@given(POOLS, NEEDS, DRAWS)
def test_never_past_a_pin(pool: list[Entry], needs: Needs, draw: float) -> None:
    if needs.pinned_source is not None:
        chosen = choose(pool, needs, draw)
        assert chosen == needs.pinned_source or isinstance(chosen, NoSource)
        ids = {entry.source_id for entry in pool}
        assert (chosen is NoSource.NOT_IN_POOL) == (needs.pinned_source not in ids)


@given(POOLS, NEEDS, DRAWS)
def test_a_later_tier_only_when_everything_before_it_is_out(pool: list[Entry], needs: Needs, draw: float) -> None:
    needs = structs.replace(needs, pinned_source=None)
    chosen = choose(pool, needs, draw)
    if isinstance(chosen, NoSource):
        return
    tier = next(entry.tier for entry in pool if entry.source_id == chosen)
    for earlier in pool:
        if earlier.tier >= tier or earlier.weight == 0 or not _fits(earlier, needs):
            continue
        if earlier.paused or earlier.draining:
            continue
        if not earlier.held:
            out = earlier.condition in (Condition.OUTAGE, Condition.PROBING)
            assert out or (not earlier.has_room and earlier.overflows)
        else:
            # Going round a source that a relay stopped is for a person; only a full one beside it may overflow.
            beside = [e for e in pool if e.tier == earlier.tier and not e.held and e.overflows]
            assert beside


@given(POOLS, NEEDS, DRAWS)
def test_own_addresses_first_and_back_when_healthy(pool: list[Entry], needs: Needs, draw: float) -> None:
    needs = structs.replace(needs, pinned_source=None)
    own = Entry(99, tier=-1, condition=Condition.HEALTHY)
    assert choose([*pool, own], needs, draw) == 99
    down = structs.replace(own, condition=Condition.OUTAGE)
    without, around = choose(pool, needs, draw), choose([*pool, down], needs, draw)
    if not isinstance(without, NoSource):
        assert around == without
    assert choose([*pool, structs.replace(own, condition=Condition.PROBE_DUE)], needs, draw) == 99
    assert choose([*pool, structs.replace(own, has_room=False)], needs, draw) is NoSource.NO_ROOM
    assert choose([*pool, structs.replace(own, held=True)], needs, draw) is NoSource.HELD
    for out in (structs.replace(own, paused=True), structs.replace(own, draining=True)):
        if not isinstance(without, NoSource):
            assert choose([*pool, out], needs, draw) == without


@given(POOLS, NEEDS, DRAWS)
def test_no_source_has_the_reason_that_mends_it(pool: list[Entry], needs: Needs, draw: float) -> None:
    needs = structs.replace(needs, pinned_source=None)
    chosen = choose(pool, needs, draw)
    fitting = [e for e in pool if e.weight > 0 and _fits(e, needs)]
    if chosen is NoSource.NONE_FITS:
        assert not fitting
    elif chosen is NoSource.NO_ROOM:
        assert not isinstance(choose([structs.replace(e, has_room=True) for e in pool], needs, draw), NoSource)
    elif chosen is NoSource.OUTAGE:
        mended = [structs.replace(e, condition=Condition.HEALTHY, has_room=True) for e in pool]
        assert not isinstance(choose(mended, needs, draw), NoSource)
    elif chosen is NoSource.PAUSED:
        assert all(e.paused or e.draining for e in fitting)
    elif chosen is NoSource.HELD:
        assert any(e.held for e in fitting)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 10**6))
def test_weights_are_respected_in_the_long_run(weights: list[int], seed: int) -> None:
    pool = [Entry(number, tier=1, weight=weight, cost=0.5) for number, weight in enumerate(weights)]
    pool.append(Entry(98, tier=1, weight=9, cost=0.9))  # dearer: takes nothing while the others have room
    pool.append(Entry(99, tier=1, weight=0))
    chance = random.Random(seed)
    needs = Needs("broadcast", "a.example", "b.example")
    drawn = 600
    counts = Counter(choose(pool, needs, (number + chance.random()) / drawn) for number in range(drawn))
    assert set(counts) <= set(range(len(weights)))
    for number, weight in enumerate(weights):
        assert abs(counts[number] - drawn * weight / sum(weights)) <= 2


EVENTS = st.lists(
    st.tuples(st.sampled_from(["failed", "succeeded", "probe"]), st.floats(0, 40), st.integers(1, 3)), max_size=60
)


@given(EVENTS, st.integers(1, 4), st.integers(1, 2))
def test_health_always_finds_back(events: list[tuple[str, float, int]], failures: int, sites: int) -> None:
    tolerance = Tolerance(failures=failures, sites=sites, first_pause=10.0, longest_pause=60.0, probe=20.0)
    health, now = Health(tolerance), 0.0
    for event, pause, site in events:
        now += pause
        before = health.condition(now)
        if event == "failed":
            health = health.failed(now, site)
        elif event == "succeeded":
            health = health.succeeded(now)
        else:
            health = health.probe_began(now)
        after = health.condition(now)
        # Only a probe's success ends an outage, and only failures begin one.
        if before is not Condition.HEALTHY and after is Condition.HEALTHY:
            assert (before, event) == (Condition.PROBING, "succeeded")
        if before is Condition.HEALTHY and after is not Condition.HEALTHY:
            assert (event, after) == ("failed", Condition.OUTAGE)
        if before is Condition.PROBE_DUE and event == "probe":
            assert after is Condition.PROBING
        assert len(health.failures) <= failures + sites + 1
    # Whatever happened, a probe is due after the longest pause at the latest, and its success heals.
    later = now + tolerance.longest_pause + tolerance.probe
    healed = health.probe_began(later).succeeded(later)
    assert healed.condition(later) is Condition.HEALTHY
