"""`python -m bench.faults`: kill -9 at every point of the path, full disks, silent peers; then everybody is counted.

Exit code 1 when a recipient is lost or a second copy is not explained.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import asyncpg
import msgspec
import uvloop
from msgspec import Struct

from bench import fault_processes as processes
from bench.fault_conduct import finish
from bench.fault_house import House, Round, Stuck, open_house
from bench.fault_judge import Judgement, Kill, judge
from bench.fault_points import Point, Sighting, Target, Watcher
from bench.fault_scenes import SCENES, SceneResult, play

_RESULTS = Path(__file__).with_name("results")
_ROUNDS_A_HOUSE = 7
_TRIES = 3
# A segment of 1 MB holds about 9,500 outcomes, and two senders share the work.
_ROTATION_RECIPIENTS = 24_000
_WITHHOLD = 0.001
_DOMAINS = {
    **{f"plain{nth}.example": "plain" for nth in range(1, 17)},
    "gmail1.example": "gmail-like",
    "gmail2.example": "gmail-like",
    "yahoo1.example": "yahoo-like",
    "yahoo2.example": "yahoo-like",
    "outlook1.example": "outlook-like",
    "grey.example": "greylister",
    "drop.example": "dropper",
    "boxes.example": "mailboxes",
}
_TARGETS = (
    Target.SENDER,
    Target.ALL,
    Target.POSTMASTER,
    Target.SENDER,
    Target.ALL_AND_KEEPER,
    Target.BACKEND,
)


class RoundResult(Struct, frozen=True):
    """One round. sighting: what was seen in the instant before the kill, None where the point was missed and nobody was killed.

    replayed: answers that came out of a journal after the kill; starts: how often Posthouse had to be started until it ran again.
    """

    point: Point
    target: Target
    recipients: int
    sighting: str | None
    judgement: Judgement | None
    replayed: int
    starts: int
    seconds: float
    trouble: str | None = None

    @property
    def is_clean(self) -> bool:
        """Whether everybody is accounted for."""
        return self.trouble is None and self.judgement is not None and self.judgement.is_clean


async def play_round(
    house: House, name: str, point: Point, target: Target, recipients: int, chance: random.Random, domains: list[str]
) -> RoundResult:
    """Send a campaign, kill at the point, start again what must be, let it finish, and judge."""
    began = time.monotonic()
    log = house.directory.path / "posthouse.log"
    log_from = log.stat().st_size
    watching = await asyncpg.connect(house.app.database_url, server_settings={"application_name": "faults"})
    current: Round | None = None
    sighting: Sighting | None = None
    judgement: Judgement | None = None
    trouble: str | None = None
    starts = 0
    try:
        current = await house.send(name, recipients, domains)
        watcher = Watcher(house, current, watching, chance)
        members = house.members()
        keeper, postmaster = house.keeper(), house.postmaster()
        backend = await watcher.any_backend()
        sighting = await watcher.see(point)
        kill: Kill | None = None
        if sighting is not None:
            at = processes.kill(_victims(target, sighting, members, keeper, postmaster, backend, chance))
            kill = Kill(at, ends_answers=not target.is_database)
            if target in (Target.ALL, Target.ALL_AND_KEEPER):
                house.reap(members)
                await asyncio.sleep(chance.uniform(0.0, 0.5))
                starts = await house.start()
        await finish(house, current)
        judgement = await judge(house, current, kill)
    except Stuck as stuck:
        trouble = str(stuck)
    finally:
        watching.terminate()
    return RoundResult(
        point,
        target,
        recipients,
        sighting.evidence if sighting else None,
        judgement,
        _replayed(log, log_from),
        starts,
        time.monotonic() - began,
        trouble,
    )


def _victims(
    target: Target,
    sighting: Sighting,
    members: dict[str, int],
    keeper: int | None,
    postmaster: int | None,
    backend: int | None,
    chance: random.Random,
) -> list[int]:
    """Process ids in the order of dying: the supervisor goes after its children, so that it cannot tell them to stop."""
    senders = [pid for name, pid in members.items() if name.startswith("sender-")]
    match target:
        case Target.SENDER:
            return [members[f"sender-{sighting.slot}"] if sighting.slot is not None else chance.choice(senders)]
        case Target.FRONT:
            return [members["front"]]
        case Target.POSTMASTER:
            return [pid for pid in (postmaster,) if pid is not None]
        case Target.BACKEND:
            return [pid for pid in (sighting.backend or backend,) if pid is not None]
        case Target.ALL:
            return [*senders, *(pid for name, pid in members.items() if not name.startswith("sender-"))]
        case Target.ALL_AND_KEEPER:
            rest = [pid for name, pid in members.items() if not name.startswith("sender-")]
            return [*senders, *rest, *(pid for pid in (keeper,) if pid is not None)]


def _replayed(log: Path, log_from: int) -> int:
    with log.open("rb") as file:
        file.seek(log_from)
        return sum(
            int(msgspec.json.decode(line)["outcomes"])
            for line in file
            if b'"event":"outcomes of an earlier run replayed"' in line
        )


def plan_rounds(rounds: int, recipients: int) -> list[tuple[Point, Target, int]]:
    """Points in turn, so that a run that is cut short has seen them all; each point meets each target in turn."""
    planned = []
    points = list(Point)
    for nth in range(rounds):
        point = points[nth % len(points)]
        target = _TARGETS[(nth // len(points) + nth % len(points)) % len(_TARGETS)]
        if point is Point.LAUNCH and target is Target.SENDER:
            target = Target.FRONT
        size = max(recipients, _ROTATION_RECIPIENTS) if point is Point.ROTATION else recipients
        planned.append((point, target, size))
    return planned


async def play_rounds(rounds: int, recipients: int, seed: int, place: Path, *, keep: bool) -> list[RoundResult]:
    """All rounds, a fresh house every few of them, and after one in which something stood still."""
    results: list[RoundResult] = []
    planned = plan_rounds(rounds, recipients)
    houses = 0
    while len(results) < len(planned):
        houses += 1
        chance = random.Random(seed * 1000 + houses)
        async with open_house(
            place / f"house-{houses}", seed=seed * 1000 + houses, domains=_DOMAINS, withhold=_WITHHOLD, keep=keep
        ) as house:
            until = min(len(planned), len(results) + _ROUNDS_A_HOUSE)
            while len(results) < until:
                point, target, size = planned[len(results)]
                result = await _try_round(house, f"r{len(results)}", point, target, size, chance)
                results.append(result)
                _tell(len(results), result)
                if result.trouble is not None:
                    break
    return results


async def _try_round(
    house: House, name: str, point: Point, target: Target, recipients: int, chance: random.Random
) -> RoundResult:
    """A point that was missed is tried again; what stays missed is told as missed."""
    for nth in range(_TRIES):
        result = await play_round(house, f"{name}t{nth}", point, target, recipients, chance, list(_DOMAINS))
        if result.sighting is not None or not result.is_clean:
            break
    return result


def _tell(number: int, result: RoundResult) -> None:
    judgement = result.judgement
    account = "not judged"
    if judgement is not None:
        explained = "; ".join(f"{count} {why}" for why, count in judgement.explained.items()) or "none"
        account = (
            f"lost {judgement.lost}, doubled {judgement.doubled} ({explained}), unexplained {len(judgement.unexplained)}, "
            f"oldest answer not kept {1000 * judgement.oldest_answer:.0f} ms"
        )
    seen = result.sighting or "MISSED, nobody was killed"
    print(
        f"{number:3}. {result.point} / {result.target}: {seen}; {result.recipients:,} recipients, {account}, "
        f"replayed {result.replayed}, {result.seconds:.0f} s",
        flush=True,
    )
    for line in (judgement.unexplained if judgement else ())[:5]:
        print(f"       {line}", flush=True)
    if result.trouble:
        print(f"       {result.trouble}", flush=True)


def show(results: list[RoundResult], scenes: list[SceneResult]) -> None:
    """The table of the closing note."""
    heads = ("kill point", "rounds", "hit", "recipients", "lost", "doubled", "unexplained", "replayed")
    print("\n" + "  ".join(f"{head:>{24 if head == 'kill point' else 11}}" for head in heads))
    reasons: Counter[str] = Counter()
    for point in Point:
        chosen = [each for each in results if each.point is point]
        judged = [each.judgement for each in chosen if each.judgement is not None]
        for judgement in judged:
            reasons.update(judgement.explained)
        cells = (
            len(chosen),
            sum(each.sighting is not None for each in chosen),
            sum(each.recipients for each in judged),
            sum(each.lost for each in judged),
            sum(each.doubled for each in judged),
            sum(len(each.unexplained) for each in judged) + sum(each.trouble is not None for each in chosen),
            sum(each.replayed for each in chosen),
        )
        print(f"{point:>24}  " + "  ".join(f"{cell:>11,}" for cell in cells))
    killed = Counter(each.target for each in results if each.sighting is not None)
    print("\nKilled: " + ", ".join(f"{target} {count}" for target, count in killed.items()) + ".")
    print("Second copies: " + ("; ".join(f"{count} {why}" for why, count in reasons.items()) or "none") + ".")
    for scene in scenes:
        print(f"{'ok  ' if scene.is_clean else 'FAIL'} {scene.name}: {scene.account}")


def main() -> None:
    """Parse the options, play, write the JSON, and exit with 1 unless everybody is accounted for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=42, help="rounds of kill -9 (default 42)")
    parser.add_argument("--recipients", type=int, default=20_000, help="recipients of each round (default 20,000)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenes", default=",".join(SCENES), help=f"of {', '.join(SCENES)}; empty for none")
    parser.add_argument("--keep", type=Path, help="an empty folder for the data directories, which then stay")
    options = parser.parse_args()
    # The watcher's own pool meets a dead PostgreSQL on purpose.
    logging.getLogger("asyncpg").setLevel(logging.CRITICAL)
    # An end from outside unwinds the houses, so that nothing is left running.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with (
        tempfile.TemporaryDirectory(prefix="posthouse-faults-") as folder,
        asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
    ):
        Path(folder).chmod(0o755)
        place = options.keep or Path(folder)
        names = [name for name in options.scenes.split(",") if name]
        scenes = [runner.run(play(name, place / name)) for name in names]
        results = runner.run(
            play_rounds(options.rounds, options.recipients, options.seed, place, keep=bool(options.keep))
        )
    show(results, scenes)
    _RESULTS.mkdir(exist_ok=True)
    document = {"seed": options.seed, "rounds": results, "scenes": scenes}
    (_RESULTS / "faults.json").write_bytes(msgspec.json.format(msgspec.json.encode(document), indent=1))
    is_clean = all(each.is_clean for each in results) and all(each.is_clean for each in scenes)
    sys.exit(0 if is_clean else 1)


if __name__ == "__main__":
    main()
