"""source, pool, stream: the ways out, how they are grouped, and which kind of mail uses which group."""

from __future__ import annotations

from typing import Annotated

import typer

from posthouse import delivery, queue
from posthouse.accounts import MAIN_WORKSPACE
from posthouse.cli.options import Data, Json, opened, run
from posthouse.cli.output import print_json, print_table, say
from posthouse.delivery import SourceState
from posthouse.model.errors import Refused
from posthouse.model.streams import Stream

sources = typer.Typer(help="The addresses that mail leaves from.", no_args_is_help=True)
pools = typer.Typer(help="Groups of sources.", no_args_is_help=True)
streams = typer.Typer(help="Which kind of mail leaves from which pool.", no_args_is_help=True)


@sources.command("add")
def add_source(
    name: str,
    address: Annotated[str, typer.Option("--address", help="IP address of this host to send from.")],
    ehlo: Annotated[
        str | None, typer.Option("--ehlo", help="Its name in EHLO; it must resolve to the address.")
    ] = None,
    node: Annotated[str | None, typer.Option("--node", help="The host that has it; this one if not given.")] = None,
    region: Annotated[str | None, typer.Option("--region", help="Where it is, for nearest routing.")] = None,
    data: Data = None,
) -> None:
    """Register an address of a host. Put it into a pool to use it.

    Example: posthouse source add mail7 --address 192.0.2.7 --ehlo mail7.example.com
    """
    run(lambda: _add_source(name, address, ehlo, node, region, data))


@sources.command("list")
def list_sources(data: Data = None, json: Json = False) -> None:
    """Show every source of every host."""
    run(lambda: _list_sources(data, json))


@sources.command()
def check(name: str, data: Data = None, json: Json = False) -> None:
    """Check an address: is it on this host, does its EHLO name lead to it, does reverse DNS lead back (SMTP-8)?"""
    run(lambda: _check(name, data, json))


@sources.command()
def pause(name: str, data: Data = None) -> None:
    """Send nothing from a source until it is resumed."""
    run(lambda: _set_state(name, SourceState.PAUSED, data))


@sources.command()
def drain(name: str, data: Data = None) -> None:
    """Let a source finish what is bound to it, and take nothing new."""
    run(lambda: _set_state(name, SourceState.DRAINING, data))


@sources.command()
def resume(name: str, data: Data = None) -> None:
    """Let a paused or draining source send again."""
    run(lambda: _set_state(name, SourceState.ACTIVE, data))


@pools.command("add")
def add_pool(
    name: str,
    dedicated: Annotated[bool, typer.Option("--dedicated", help="For the main workspace alone.")] = False,
    data: Data = None,
) -> None:
    """Make a pool.

    Example: posthouse pool add receipts
    """
    run(lambda: _add_pool(name, dedicated, data))


@pools.command("list")
def list_pools(data: Data = None, json: Json = False) -> None:
    """Show the pools, their sources, and the streams that use them."""
    run(lambda: _list_pools(data, json))


@pools.command()
def put(
    pool: str,
    source: str,
    weight: Annotated[int, typer.Option("--weight", min=1, max=1000, help="Its share beside the others.")] = 1,
    tier: Annotated[
        int, typer.Option("--tier", min=0, max=9, help="Used only when nothing in a lower tier can send.")
    ] = 0,
    data: Data = None,
) -> None:
    """Put a source into a pool, or change its weight there."""
    run(lambda: _put(pool, source, weight, tier, data))


@pools.command()
def remove(pool: str, source: str, data: Data = None) -> None:
    """Take a source out of a pool; what is bound to it leaves from another."""
    run(lambda: _remove(pool, source, data))


@streams.command("set")
def set_stream(stream: Stream, pool: str, data: Data = None) -> None:
    """Let a stream leave from a pool, from the next launch on.

    Example: posthouse stream set transactional receipts
    """
    run(lambda: _set_stream(stream, pool, data))


async def _add_source(
    name: str, address: str, ehlo: str | None, node: str | None, region: str | None, data: Data
) -> None:
    async with opened(data) as app:
        async with app.db.acquire() as connection, connection.transaction():
            source = await delivery.add_source(
                connection, name, node or app.node, app.clock.now(), address=address, ehlo_name=ehlo, region=region
            )
        findings = await delivery.check_source(source, app.resolver, here=source.node == app.node)
    say(
        f"“{source.name}” sends from {source.address} of {source.node}. Put it into a pool: posthouse pool put default {name}"
    )
    for finding in findings:
        say(f"  {finding}")


async def _list_sources(data: Data, json: bool) -> None:
    async with opened(data) as app:
        found = await delivery.list_sources(app.db)
    if json:
        print_json(found)
        return
    print_table(
        "Sources",
        ("source", "address", "host", "EHLO", "region", "state"),
        [
            (s.name, s.address or "the system's", s.node, s.ehlo_name or "", s.region or "", s.state.value)
            for s in found
        ],
        numbers_from=9,
    )


async def _check(name: str, data: Data, json: bool) -> None:
    async with opened(data) as app:
        source = await delivery.find_source(app.db, name)
        findings = await delivery.check_source(source, app.resolver, here=source.node == app.node)
    if json:
        print_json({"source": source.name, "findings": findings})
    for finding in [] if json else findings:
        say(finding)
    if findings:
        raise Refused(f"“{name}” is not ready to send: see above.")
    if not json:
        say(f"“{name}” is ready: its name leads to {source.address} and back.")


async def _set_state(name: str, state: SourceState, data: Data) -> None:
    async with opened(data) as app, app.db.acquire() as connection:
        await delivery.set_source_state(connection, await delivery.find_source(connection, name), state)
    say(f"“{name}” is {state.value}: {state.sentence}")


async def _add_pool(name: str, dedicated: bool, data: Data) -> None:
    async with opened(data) as app, app.db.acquire() as connection:
        await delivery.add_pool(connection, name, MAIN_WORKSPACE if dedicated else None)
    say(f"The pool “{name}” is there; put sources into it: posthouse pool put {name} SOURCE")


async def _list_pools(data: Data, json: bool) -> None:
    async with opened(data) as app:
        found = await delivery.list_pools(app.db)
    if json:
        print_json(found)
        return
    print_table(
        "Pools",
        ("pool", "sources (tier, weight)", "streams"),
        [
            (
                pool["pool"],
                ", ".join(f"{e['source']} ({e['tier']}, {e['weight']})" for e in pool["sources"])
                or "every host's own address",
                ", ".join(each["stream"] for each in pool["streams"])
                or "those that have no other" * (pool["pool"] == "default"),
            )
            for pool in found
        ],
        numbers_from=9,
    )


async def _put(pool: str, source: str, weight: int, tier: int, data: Data) -> None:
    async with opened(data) as app, app.db.acquire() as connection:
        await delivery.put_in_pool(connection, pool, await delivery.find_source(connection, source), weight, tier)
    say(f"“{source}” is in the pool “{pool}”, tier {tier}, weight {weight}.")


async def _remove(pool: str, source: str, data: Data) -> None:
    async with opened(data) as app, app.db.acquire() as connection, connection.transaction():
        found = await delivery.find_source(connection, source)
        await delivery.take_from_pool(connection, pool, found)
        await queue.unpin(connection, found.source_id)
    say(f"“{source}” is out of the pool “{pool}”.")


async def _set_stream(stream: Stream, pool: str, data: Data) -> None:
    async with opened(data) as app, app.db.acquire() as connection:
        await delivery.set_stream(connection, MAIN_WORKSPACE, stream.value, pool)
    say(f"{stream.value.capitalize()} mail leaves from the pool “{pool}” from the next launch on.")
