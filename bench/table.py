"""The benchmark's figures as people read them."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import Any

_COLUMNS = (
    f"{'scenario':16}{'recipients':>11}{'msg/s':>8}{'limit':>7}{'wall':>7}{'CPU':>6}  "
    f"{'sender':>7}{'child':>6}{'front':>6}{'pg':>5}{'recv':>6}{'dns':>5}  {'busy':>5}{'others':>7}{'launch':>8}  receiver"
)
_LEGEND = """\
limit: RSA-2048 signatures a second on all cores; wall: msg/s to it; CPU: one signature to everything of Posthouse and PostgreSQL a message.
sender to dns: CPU µs a message; busy: share of all cores that worked, others: of that for programs outside this run; launch: seconds."""


def print_head() -> None:
    """The head of the throughput table."""
    print(f"\n{_LEGEND}\n\n{_COLUMNS}")


def print_run(result: dict[str, Any]) -> None:
    """One run as a line."""
    cpu = result["cpu_us"]
    deferred = f", {result['deferred']} deferred and tried again" if result["deferred"] else ""
    ratio = "-" if result["cpu_ratio"] is None else f"{result['cpu_ratio']:.2f}"
    print(
        f"{result['name']:16}{result['recipients']:11,}{result['delivered_per_second']:8.0f}"
        f"{result['signing_limit_per_second']:7}{result['wall_ratio']:7.2f}{ratio:>6}  {cpu['sender']:7.0f}"
        f"{cpu.get('render child', 0.0):6.0f}{cpu['front']:6.0f}{cpu['postgresql']:5.0f}{cpu['receiver']:6.0f}"
        f"{cpu.get('dns', 0.0):5.0f}  {result['machine_busy']:5.2f}{result['busy_with_others']:7.2f}"
        f"{result['launch_seconds']:8.1f}  {result['receiver']}{deferred}",
        flush=True,
    )


def print_repeats(results: Sequence[dict[str, Any]]) -> None:
    """Of several runs of one scenario the worst and the median of both ratios."""
    walls = [result["wall_ratio"] for result in results]
    line = f"{'':16}wall ratio: least {min(walls):.2f}, median {statistics.median(walls):.2f}"
    cpus = [result["cpu_ratio"] for result in results if result["cpu_ratio"] is not None]
    if cpus:
        line += f"; CPU ratio: least {min(cpus):.2f}, median {statistics.median(cpus):.2f}"
    print(line, flush=True)


def print_memory(result: dict[str, Any]) -> None:
    """Peak memory of each role in one run."""
    peaks = ", ".join(f"{role} {peak}" for role, peak in result["peak_mb"].items())
    print(
        f"\nPeak memory in MB of the largest process of each role ({result['name']}; PostgreSQL's with shared buffers): {peaks}"
    )


def print_stages(result: dict[str, Any]) -> None:
    """Where a sender's time goes, and PostgreSQL's."""
    stages = ", ".join(f"{stage} {cost:.0f}" for stage, cost in result["sender"].items())
    uses = ", ".join(f"{use} {cost:.0f}" for use, cost in result["postgresql"].items())
    print(
        f"\nOne sender, CPU µs a message: {stages}; together {result['sender_sum']:.0f}, of which the clocks {result['clock']:.0f}."
        f"\nPostgreSQL, CPU µs a message: {uses}."
    )


def print_growth(result: dict[str, Any]) -> None:
    """Cost and memory of the small size and the large."""
    for recipients, summary in result["runs"].items():
        low, high = summary["cpu_us_spread"]
        peaks = ", ".join(f"{role} {peak} MB" for role, peak in summary["peak_mb"].items())
        print(
            f"{int(recipients):,} recipients: {summary['cpu_us']:.0f} CPU µs a message ({low:.0f} to {high:.0f}); peak {peaks}"
        )
    print(
        f"Growth ({result['rounds']} interleaved): CPU {result['cpu_ratio']}, by role {result['cpu_ratio_by_role']}; "
        f"peak memory {result['memory_ratio']}; private memory at the end {result['private_memory_ratio']}"
    )


def print_import(result: dict[str, Any]) -> None:
    """One import against COPY."""
    print(
        f"\nImport of {result['rows']:,} rows: {result['import_rows_per_second']:,} rows/s, {result['ratio']:.2f} of COPY "
        f"({result['copy_rows_per_second']:,} rows/s), peak {result['peak_megabytes']} MB",
        flush=True,
    )
