"""What a sender knows of the brakes, and what they mean for one copy or one way out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from ipaddress import ip_address, ip_network

from msgspec import Struct

from posthouse.db.pool import Pool
from posthouse.model.waiting import Ceiling, WaitReason
from posthouse.reputation.brakes import Brake, BrakeKind, brakes_in_force, draw_allowance

# What waits for a person is looked at again this often.
_LOOK_AGAIN = timedelta(minutes=15)


class Traits(Struct, frozen=True):
    """What brakes may be on, of everything that one campaign sends. Domains are A-labels in lower case; url_domains: host names."""

    workspace_id: int
    campaign_id: int
    stream: str
    dkim_domain: str
    spf_domain: str
    url_domains: tuple[str, ...]


class BrakeGate:
    """The brakes in one sender process that are on mail; those on ways out are `ceilings`.

    `refresh` about once a second, so that every sender knows a new brake within two.
    """

    def __init__(self, *, sandbox: bool) -> None:
        self._sandbox = sandbox
        self.brakes: Sequence[Brake] = ()
        self._matching: dict[tuple[Traits, int], tuple[Brake, ...]] = {}
        # Brake id → when the last copy that it put off falls due: they come back one by one, at the braked rate.
        self._put_off_until: dict[int, datetime] = {}

    async def refresh(self, pool: Pool, now: datetime) -> None:
        """Learn which brakes are on."""
        self.brakes = await brakes_in_force(pool, now, sandbox=self._sandbox)
        self._matching.clear()
        on = {brake.brake_id for brake in self.brakes}
        self._put_off_until = {i: due for i, due in self._put_off_until.items() if i in on}

    async def waits(self, pool: Pool, asked: Sequence[tuple[Traits, int]], now: datetime) -> list[datetime | None]:
        """When each copy (its traits and site id) may be tried again; None for those that may leave now.

        Those that may leave have taken their share of the braked rates, from an allowance that all senders draw on.
        """
        matched = [self._brakes_of(*one) for one in asked]
        wanted = Counter(
            brake.brake_id
            for brakes in matched
            if not any(brake.is_hold for brake in brakes)
            for brake in brakes
            if brake.per_minute is not None
        )
        granted = await draw_allowance(pool, dict(wanted), now) if wanted else {}
        return [self._wait(brakes, granted, now) for brakes in matched]

    def held_until(self, traits: Traits, site_id: int, now: datetime) -> datetime | None:
        """When a copy that a hold keeps back may be tried again; None for one that no hold keeps back."""
        holds = [brake for brake in self._brakes_of(traits, site_id) if brake.is_hold]
        return self._wait(holds, {}, now) if holds else None

    def _wait(self, brakes: Sequence[Brake], granted: dict[int, int], now: datetime) -> datetime | None:
        holds = [brake for brake in brakes if brake.is_hold]
        if holds:
            return max(min(brake.until or now + _LOOK_AGAIN, now + _LOOK_AGAIN) for brake in holds)
        rated = [brake for brake in brakes if brake.per_minute is not None]
        short = [brake for brake in rated if not granted.get(brake.brake_id)]
        if short:
            return max(self._next_slot(brake, now) for brake in short)
        for brake in rated:
            granted[brake.brake_id] -= 1
        return None

    def _next_slot(self, brake: Brake, now: datetime) -> datetime:
        assert brake.per_minute is not None
        slot = max(self._put_off_until.get(brake.brake_id, now), now) + timedelta(minutes=1 / brake.per_minute)
        if brake.until is not None:
            slot = min(slot, brake.until)
        self._put_off_until[brake.brake_id] = slot
        return slot

    def _brakes_of(self, traits: Traits, site_id: int) -> tuple[Brake, ...]:
        key = (traits, site_id)
        found = self._matching.get(key)
        if found is None:
            found = self._matching[key] = tuple(
                brake for brake in self.brakes if brake.site_id in (0, site_id) and _is_under(brake, traits)
            )
        return found


def ceilings(brakes: Sequence[Brake], addresses: Mapping[int, str | None]) -> list[Ceiling]:
    """The brakes on ways out (source, netblock, site) as limits for pacing. addresses: source id → its IP address, None: not known."""
    found: list[Ceiling] = []
    for brake in brakes:
        if not brake.kind.is_path or (brake.per_minute is None and not brake.is_hold):
            continue
        rate = 0.0 if brake.per_minute is None else brake.per_minute / 60
        sources: Sequence[int | None] = [None]
        site_id = brake.site_id or None
        if brake.kind is BrakeKind.SOURCE:
            sources = [int(brake.value)]
        elif brake.kind is BrakeKind.NETBLOCK:
            sources = [source for source, address in addresses.items() if _is_in(address, brake.value)]
        else:
            site_id = int(brake.value)
        why = f"{brake.rule}: {brake.reply}"
        found += [Ceiling(source, site_id, rate, None, brake.until, WaitReason.BRAKE, why) for source in sources]
    return found


def _is_under(brake: Brake, traits: Traits) -> bool:
    match brake.kind:
        case BrakeKind.DKIM_DOMAIN:
            return _is_below(traits.dkim_domain, brake.value)
        case BrakeKind.SPF_DOMAIN:
            return _is_below(traits.spf_domain, brake.value)
        case BrakeKind.URL_DOMAIN:
            return any(_is_below(host, brake.value) for host in traits.url_domains)
        case BrakeKind.STREAM:
            return brake.value == f"{traits.workspace_id}/{traits.stream}"
        case BrakeKind.WORKSPACE:
            return brake.value == str(traits.workspace_id)
        case BrakeKind.CAMPAIGN:
            return brake.value == str(traits.campaign_id)
        case _:
            return False


def _is_below(name: str, domain: str) -> bool:
    return name == domain or name.endswith("." + domain)


def _is_in(address: str | None, network: str) -> bool:
    # The address that the system picks is not known: it may well be in there.
    return address is None or ip_address(address) in ip_network(network)
