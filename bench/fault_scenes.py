"""Troubles that kill nobody, or nobody of Posthouse's senders: a full disk, silent peers, silent DNS, PostgreSQL gone, an orderly stop.

In all of them a second copy has no excuse.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from msgspec import Struct

from bench import fault_processes as processes
from bench.fault_conduct import finish
from bench.fault_disk import Disk
from bench.fault_house import DATABASE_TROUBLE, SQL, House, Round, Stuck, open_house
from bench.fault_judge import Judgement, judge
from posthouse.db.server import EmbeddedServer
from posthouse.sandbox import publish

_PLAIN = {f"plain{nth}.example": "plain" for nth in range(1, 9)}
_GONE_SECONDS = 10.0
_WAIT_SECONDS = 90.0
_LINK_BYTES = 6 * 2**20


class SceneResult(Struct, frozen=True):
    """What came of a scene. account: one sentence with the figures."""

    name: str
    is_clean: bool
    account: str


async def play(name: str, place: Path) -> SceneResult:
    """Play one scene in a fresh house at `place`. Raises KeyError for a name that there is not."""
    try:
        result = await SCENES[name](place)
    except Stuck as stuck:
        result = SceneResult(name, False, str(stuck))
    print(f"{'ok  ' if result.is_clean else 'FAIL'} {name}: {result.account}", flush=True)
    return result


async def _disk_full(place: Path) -> SceneResult:
    """The journal's disk fills: claiming stops, what is in flight is written down, and room lets it go on by itself."""
    disk = Disk()
    settings = {"POSTHOUSE_DELIVERY_SENDERS": "1"}
    try:
        async with open_house(place, settings=settings, domains=_PLAIN, prepare=disk.make) as house:
            disk.narrow(house)
            current = await house.send("full", 14_000, list(_PLAIN))
            left = await _still(house, current)
            judged_early = await judge(house, current, None)
            known = sum(1 for line in judged_early.unexplained if "never heard" in line)
            disk.widen(house)
            await finish(house, current)
            judgement = await judge(house, current, None)
    finally:
        disk.remove()
    stopped = 0 < left < current.recipients and known == left
    return SceneResult(
        "disk-full",
        stopped and judgement.is_clean and not judgement.doubled,
        f"{disk.kind}: claiming stopped with {left:,} of {current.recipients:,} waiting and every answer written down, "
        f"went on by itself when there was room; {_words(judgement)}",
    )


async def _disk_full_restart(place: Path) -> SceneResult:
    """A sender dies while the journal's disk is full: Posthouse must wait for room, not give up."""
    disk = Disk()
    settings = {"POSTHOUSE_DELIVERY_SENDERS": "1"}
    try:
        async with open_house(place, settings=settings, domains=_PLAIN, prepare=disk.make) as house:
            disk.narrow(house)
            current = await house.send("again", 14_000, list(_PLAIN))
            await _still(house, current)
            processes.kill([house.members()["sender-0"]])
            await asyncio.sleep(45.0)
            survived = house.is_up
            disk.widen(house)
            starts = 0 if survived else await house.start()
            await finish(house, current)
            judgement = await judge(house, current, None)
    finally:
        disk.remove()
    return SceneResult(
        "disk-full-restart",
        survived and judgement.is_clean,
        f"{disk.kind}: a sender killed on a full disk; "
        + ("it came back by itself" if survived else f"POSTHOUSE GAVE UP and had to be started anew ({starts})")
        + f"; {_words(judgement)}",
    )


async def _stall(place: Path) -> SceneResult:
    """A provider stops reading in the middle of the content: the block time-out ends it, and nobody else waits for it."""
    providers = place.with_name(f"{place.name}-providers")
    providers.mkdir()
    (providers / "plain.toml").write_text('name = "plain"\ndomain = "plain-mail.test"\nweight = 1\n')
    (providers / "staller.toml").write_text('name = "staller"\ndomain = "staller.test"\n[stall]\nshare = 1.0\n')
    settings = {
        "POSTHOUSE_DELIVERY_BLOCK_SECONDS": "3",
        "POSTHOUSE_DELIVERY_LIFE_HOURS": "1",
    }
    domains = {**_PLAIN, "stall.example": "staller"}
    async with open_house(place, settings=settings, domains=domains, providers=providers) as house:
        long_text = "All stops of all coaches. " * (_LINK_BYTES // 26)
        html = f"<p>{{{{ first_name }}}}</p><p>{long_text}</p><p>{{{{ postal_address }}}} <a href='{{{{ unsubscribe_url }}}}'>x</a></p>"
        stalled = await house.send("stalled", 4, ["stall.example"], html)
        while not (await _waiting(house, stalled))[1]:
            await asyncio.sleep(0.05)
        others = await house.send("others", 2_000, list(_PLAIN))
        await finish(house, others, patience=600.0)
        open_when_done = (await _waiting(house, stalled))[0]
        await finish(house, stalled, patience=600.0)
        kinds, rules = await _kinds(house, stalled)
        judgement = await judge(house, others, None)
        ended = await judge(house, stalled, None)
    clean = judgement.is_clean and not judgement.doubled and ended.is_clean
    return SceneResult(
        "stall",
        clean and open_when_done == 4 and kinds["deferred"] >= 4 and kinds["expired"] == 4,
        f"others: {_words(judgement)}, while the {open_when_done} stalled waited; stalled: {dict(kinds)} {rules}",
    )


async def _dns(place: Path) -> SceneResult:
    """DNS is silent or fails for two domains: their mail waits; it is neither bounced nor suppressed, and goes when DNS is back."""
    fates = {"silent.example": "silent", "servfail.example": "servfail"}
    async with open_house(place, settings={"POSTHOUSE_DNS_TIMEOUT_SECONDS": "1"}, domains=_PLAIN) as house:
        publish(house.directory.sandbox, (), fates)
        current = await house.send("dns", 600, [*_PLAIN, *fates])
        troubled = 600 // (len(_PLAIN) + len(fates)) * len(fates)
        kinds: Counter[str] = Counter()
        deadline = time.monotonic() + _WAIT_SECONDS
        while kinds["deferred"] < troubled and time.monotonic() < deadline:
            await asyncio.sleep(0.2)
            kinds, rules = await _kinds(house, current)
        early = dict(kinds)
        publish(house.directory.sandbox, (), dict.fromkeys(fates, "plain"))
        await finish(house, current, patience=600.0)
        judgement = await judge(house, current, None)
        kinds, _ = await _kinds(house, current)
        suppressed = await house.app.db.fetchval(SQL["suppressed"], current.prefix)
    return SceneResult(
        "dns",
        judgement.is_clean and not judgement.doubled and kinds["delivered"] == 600 and not suppressed,
        f"while DNS failed for {troubled}: {early} {rules}; suppressed {suppressed}; when it was back: {_words(judgement)}",
    )


async def _postgres_gone(place: Path) -> SceneResult:
    """PostgreSQL is gone for ten seconds while mail is under way: the answers wait in the journal."""
    async with open_house(place, domains=_PLAIN) as house:
        current = await house.send("gone", 6_000, list(_PLAIN))
        await _progress(house, current, 0.25)
        keeper, postmaster = house.keeper(), house.postmaster()
        assert keeper is not None
        assert postmaster is not None
        os.kill(keeper, signal.SIGSTOP)
        try:
            taken = house.taken(current)
            processes.kill([postmaster])
            await asyncio.sleep(_GONE_SECONDS)
            answered = house.taken(current) - taken
        finally:
            os.kill(keeper, signal.SIGCONT)
        await finish(house, current)
        judgement = await judge(house, current, None)
    return SceneResult(
        "postgres-gone",
        judgement.is_clean and not judgement.doubled,
        f"{answered:,} copies were answered after PostgreSQL had gone; {_words(judgement)}",
    )


async def _keeper_gone(place: Path) -> SceneResult:
    """PostgreSQL's keeper alone is killed: Posthouse must find its database again."""
    async with open_house(place, domains=_PLAIN) as house:
        current = await house.send("keeper", 4_000, list(_PLAIN))
        await _progress(house, current, 0.25)
        keeper = house.keeper()
        assert keeper is not None
        processes.kill([keeper])
        restarted = ""
        try:
            await finish(house, current, stuck=40.0)
        except Stuck:
            restarted = "POSTHOUSE STOOD STILL until it was started anew; "
            house.kill_all()
            await house.start()
            await finish(house, current)
        judgement = await judge(house, current, None)
    return SceneResult(
        "keeper-gone",
        not restarted and judgement.is_clean,
        f"{restarted or 'a new keeper came; '}{_words(judgement)}",
    )


async def _sigterm(place: Path) -> SceneResult:
    """SIGTERM in the middle: what is in flight finishes, the rest goes back, exit code 0, nothing is doubled afterwards."""
    domains = {**_PLAIN, "slow.example": "slow"}
    async with open_house(place, domains=domains) as house:
        current = await house.send("stop", 3_000, list(domains))
        await _progress(house, current, 0.25)
        with EmbeddedServer(house.directory.path):  # the database stays, so that we can look
            code = house.stop()
            left, claimed = await _waiting(house, current)
            unsettled = await house.unsettled()
            await house.start()
        await finish(house, current)
        judgement = await judge(house, current, None)
    return SceneResult(
        "sigterm",
        code == 0 and left > 0 and not claimed and not unsettled and judgement.is_clean and not judgement.doubled,
        f"exit code {code} with {left:,} in the queue, {claimed} claimed, {unsettled} unsettled; then {_words(judgement)}",
    )


async def _progress(house: House, current: Round, share: float) -> None:
    while house.taken(current) < share * current.recipients:
        await asyncio.sleep(0.02)


async def _waiting(house: House, current: Round) -> tuple[int, int]:
    """(rows in the queue, rows claimed)."""
    row = await house.app.db.fetchrow(SQL["waiting"], current.campaign_id, house.app.clock.now())
    assert row is not None
    return row["queued"], row["claimed"]


async def _still(house: House, current: Round) -> int:
    """Wait until a launched campaign with nothing claimed stands still for 3 s; returns how many are left in the queue."""
    seen: tuple[int, int] = (-1, -1)
    since = began = time.monotonic()
    while time.monotonic() - began < _WAIT_SECONDS:
        await asyncio.sleep(0.1)
        with suppress(*DATABASE_TROUBLE):
            now = await _waiting(house, current)
            if now != seen or now[1]:
                seen, since = now, time.monotonic()
        if time.monotonic() - since > 3.0 and house.taken(current):
            return seen[0]
    raise Stuck("The sender went on claiming.")


async def _kinds(house: House, current: Round) -> tuple[Counter[str], set[str]]:
    """How many ledger lines of each kind, and the words of the deferrals."""
    kinds: Counter[str] = Counter()
    words: set[str] = set()
    for row in await house.app.db.fetch(SQL["lines"], current.campaign_id):
        kinds[row["kind"]] += 1
        if row["kind"] == "deferred":
            words.add(str(row["detail"].get("text")))
    return kinds, words


def _words(judgement: Judgement) -> str:
    first = f" ({judgement.unexplained[0]})" if judgement.unexplained else ""
    return (
        f"{judgement.delivered:,} of {judgement.recipients:,} delivered, lost {judgement.lost}, doubled {judgement.doubled}, "
        f"unexplained {len(judgement.unexplained)}{first}"
    )


SCENES: dict[str, Callable[[Path], Awaitable[SceneResult]]] = {
    "disk-full": _disk_full,
    "disk-full-restart": _disk_full_restart,
    "stall": _stall,
    "dns": _dns,
    "postgres-gone": _postgres_gone,
    "keeper-gone": _keeper_gone,
    "sigterm": _sigterm,
}
