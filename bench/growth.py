"""Growth: what a message costs, and how much memory each process takes, at ten thousand recipients and at half a million (answers 34)."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

from bench.run import OWN_ROLES, run
from bench.scenarios import Scenario


def measure(small: int, large: int, rounds: int, told: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Both sizes in turn, `rounds` times; told: called after each run. Medians with their spread, and the ratios large to small.

    Unsigned: a signature costs the same every time, so with it growth would hide behind the greatest part.
    """
    runs: dict[int, list[dict[str, Any]]] = {small: [], large: []}
    for _ in range(rounds):
        for recipients in (small, large):
            result = run(Scenario(f"growth-{recipients}", recipients, signed=False))
            told(result)
            runs[recipients].append(result)
    low, high = (_summary(results) for results in runs.values())
    return {
        "rounds": rounds,
        "runs": {str(small): low, str(large): high},
        "cpu_ratio": round(high["cpu_us"] / low["cpu_us"], 3),
        "cpu_ratio_by_role": {
            role: round(high["cpu_us_by_role"][role] / low["cpu_us_by_role"][role], 3)
            for role in OWN_ROLES
            if low["cpu_us_by_role"].get(role)
        },
        "memory_ratio": {
            role: round(high["peak_mb"][role] / low["peak_mb"][role], 3) for role in OWN_ROLES if role in low["peak_mb"]
        },
        "private_memory_ratio": {
            role: round(high["private_mb"][role] / low["private_mb"][role], 3)
            for role in OWN_ROLES
            if low["private_mb"].get(role)
        },
    }


def _summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    costs = [result["own_cpu_us"] for result in results]
    roles = results[0]["cpu_us"]
    return {
        "cpu_us": statistics.median(costs),
        "cpu_us_spread": [min(costs), max(costs)],
        "cpu_us_by_role": {role: statistics.median(result["cpu_us"][role] for result in results) for role in roles},
        "peak_mb": {role: max(result["peak_mb"][role] for result in results) for role in roles},
        "private_mb": {role: max(result["private_mb"][role] for result in results) for role in roles},
    }
