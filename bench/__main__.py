"""`make bench`: delivered messages a second against the signing limit, what each part costs, memory, growth, import.

Prints tables and writes bench/results/DATE.json. --quick: small and fast; --full: five interleaved growth runs and ten million rows.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from bench import import_rate, stages
from bench.run import Scenario, run
from posthouse.clock import SystemClock

_RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run what was asked for."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a tenth of the recipients, no growth to 500,000")
    size.add_argument("--full", action="store_true", help="five interleaved growth runs, 10,000,000 imported rows")
    parser.add_argument("--only", choices=["throughput", "stages", "growth", "import"], help="one part of it")
    arguments = parser.parse_args()
    scale = 10 if arguments.quick else 1
    parts: dict[str, Any] = {"machine": _machine()}
    if arguments.only in (None, "throughput"):
        parts["throughput"] = _throughput(50_000 // scale)
    if arguments.only in (None, "stages"):
        parts["stages"] = _stages(10_000 // scale)
    if arguments.only in (None, "growth"):
        parts["growth"] = _growth(10_000, 500_000 // scale, 5 if arguments.full else 1)
    if arguments.only in (None, "import"):
        parts["import"] = _import([1_000_000 // scale, *([10_000_000] if arguments.full else [])])
    _RESULTS.mkdir(exist_ok=True)
    file = _RESULTS / f"{SystemClock().now():%Y-%m-%d-%H%M%S}.json"
    file.write_text(json.dumps(parts, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten to {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}.")


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}


def _throughput(recipients: int) -> list[dict[str, Any]]:
    scenarios = [
        Scenario("blanks only", recipients),
        Scenario("with if and for", recipients, logic=True),
        Scenario("STARTTLS", recipients, tls=True),
        Scenario("STARTTLS, if and for", recipients, tls=True, logic=True),
        Scenario("unsigned", recipients, signed=False),
        Scenario("50 domains", recipients, domains=50),
        Scenario("20,000 domains, one provider", recipients, domains=min(20_000, recipients)),
    ]
    print(f"Throughput, {recipients:,} recipients, durable; ratios to the RSA-2048 signing limit of the same run\n")
    columns = f"{'scenario':30}{'msg/s':>8}{'limit':>8}{'wall':>7}{'CPU':>7}{'sender':>8}{'front':>7}{'pg':>6}{'recv':>7}{'MB':>5}"
    print(columns + "   (CPU µs a message; MB of a sender)")
    results = []
    for scenario in scenarios:
        result = run(scenario)
        results.append(result)
        cpu = result["cpu_us"]
        ratio = "-" if result["cpu_ratio"] is None else f"{result['cpu_ratio']:.2f}"
        print(
            f"{scenario.name:30}{result['delivered_per_second']:8.0f}{result['signing_limit_per_second']:8}"
            f"{result['wall_ratio']:7.2f}{ratio:>7}{cpu['senders']:8.0f}{cpu['front']:7.0f}{cpu['postgresql']:6.0f}"
            f"{cpu['receiver']:7.0f}{result['peak_mb']['sender']:5}   {result['receiver']}"
        )
        sys.stdout.flush()
    return results


def _stages(messages: int) -> dict[str, float]:
    result = asyncio.run(stages.measure(messages))
    print(
        "\nOne sender, CPU µs a message by stage: " + ", ".join(f"{name} {cost:.0f}" for name, cost in result.items())
    )
    return result


def _growth(small: int, large: int, rounds: int) -> dict[str, Any]:
    """Runs of both sizes in turn; cost a message and peak memory, medians."""
    runs: dict[int, list[dict[str, Any]]] = {small: [], large: []}
    for _ in range(rounds):
        for recipients in (small, large):
            runs[recipients].append(run(Scenario(f"{recipients:,} recipients", recipients)))
    summary = {}
    for recipients, results in runs.items():
        costs = [sum(r["cpu_us"][role] for role in ("senders", "front", "postgresql")) for r in results]
        summary[str(recipients)] = {
            "cpu_us": round(statistics.median(costs), 1),
            "cpu_us_spread": [round(min(costs), 1), round(max(costs), 1)],
            "sender_mb": max(r["peak_mb"]["sender"] for r in results),
            "front_mb": max(r["peak_mb"]["front"] for r in results),
        }
    low, high = summary[str(small)], summary[str(large)]
    ratios = {
        "cpu": round(high["cpu_us"] / low["cpu_us"], 3),
        "sender_memory": round(high["sender_mb"] / low["sender_mb"], 3),
        "front_memory": round(high["front_mb"] / low["front_mb"], 3),
    }
    print(f"\nGrowth from {small:,} to {large:,} recipients ({rounds} interleaved): {summary}, ratios {ratios}")
    return {"runs": summary, "ratios": ratios}


def _import(sizes: list[int]) -> list[dict[str, Any]]:
    results = []
    for rows in sizes:
        with tempfile.TemporaryDirectory(prefix="posthouse-bench-") as folder:
            Path(folder).chmod(0o755)
            results.append(asyncio.run(import_rate.measure(rows, Path(folder))))
        print(f"\nImport: {results[-1]}")
    return results


if __name__ == "__main__":
    main()
