"""`make bench`: delivered messages a second against the signing limit, what each part costs, memory, growth, import.

Prints tables and writes bench/results/DATE.json. The default takes about ten minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from bench import growth, stages, table
from bench.product import MESSAGES_PER_CONNECTION
from bench.run import LIMIT_SECONDS, run
from bench.scenarios import SCENARIOS
from posthouse.clock import SystemClock

_RESULTS = Path(__file__).parent / "results"
_PARTS = ("throughput", "stages", "growth", "import")
_QUICKER = 10


def main(arguments: list[str] | None = None) -> None:
    """Run what was asked for."""
    chosen = _parser().parse_args(arguments)
    # So that an ended benchmark stops what it has started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    scale = _QUICKER if chosen.quick else 1
    results: dict[str, Any] = {"machine": _machine(), "messages_per_connection": MESSAGES_PER_CONNECTION}
    parts = chosen.part or (["throughput"] if chosen.scenario else _PARTS)
    try:
        if "throughput" in parts:
            names = chosen.scenario or list(SCENARIOS)
            results["throughput"] = _throughput(names, chosen.recipients or 50_000 // scale, chosen)
        if "stages" in parts:
            results["stages"] = stages.measure(20_000 // scale)
            table.print_stages(results["stages"])
        if "growth" in parts:
            results["growth"] = _growth(10_000, 500_000 // scale, 5 if chosen.full else 1)
        if "import" in parts:
            results["import"] = _import([1_000_000 // scale, *([10_000_000] if chosen.full else [])])
    finally:
        _write(results)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--quick", action="store_true", help="a tenth of the recipients and rows")
    size.add_argument("--full", action="store_true", help="five interleaved growth runs, 10,000,000 imported rows")
    parser.add_argument("--part", action="append", choices=_PARTS, help="one part of it; may be given several times")
    parser.add_argument("--scenario", action="append", choices=SCENARIOS, help="one throughput run; the same")
    parser.add_argument("--recipients", type=int, help="of each throughput run")
    parser.add_argument("--repeats", type=int, default=1, help="of each throughput run")
    parser.add_argument(
        "--limit-seconds", type=float, default=LIMIT_SECONDS, help="of each measurement of the signing limit"
    )
    return parser


def _machine() -> dict[str, Any]:
    return {"cores": os.cpu_count(), "python": platform.python_version(), "kernel": platform.release()}


def _throughput(names: list[str], recipients: int, chosen: argparse.Namespace) -> list[dict[str, Any]]:
    table.print_head()
    results: list[dict[str, Any]] = []
    for name in names:
        repeated = []
        for _ in range(chosen.repeats):
            repeated.append(run(SCENARIOS[name].sized(recipients), chosen.limit_seconds))
            table.print_run(repeated[-1])
        if chosen.repeats > 1:
            table.print_repeats(repeated)
        results += repeated
    table.print_memory(max(results, key=lambda result: result["peak_mb"]["sender"]))
    return results


def _growth(small: int, large: int, rounds: int) -> dict[str, Any]:
    table.print_head()
    result = growth.measure(small, large, rounds, table.print_run)
    table.print_growth(result)
    return result


def _import(sizes: list[int]) -> list[dict[str, Any]]:
    """Each size in a process of its own, so that its peak of memory is its own too."""
    results = []
    for rows in sizes:
        command = [sys.executable, "-m", "bench.import_rate", str(rows)]
        result = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        table.print_import(result)
        results.append(result)
    return results


def _write(results: dict[str, Any]) -> None:
    _RESULTS.mkdir(exist_ok=True)
    file = _RESULTS / f"{SystemClock().now():%Y-%m-%d-%H%M%S}.json"
    file.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    print(f"\nWritten to {file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file}.")


if __name__ == "__main__":
    main()
