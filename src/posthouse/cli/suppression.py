"""suppression list, lift: who gets nothing any more."""

from __future__ import annotations

from typing import Annotated

import typer

from posthouse import reputation
from posthouse.accounts import MAIN_WORKSPACE
from posthouse.cli.options import Data, Json, opened, run
from posthouse.cli.output import print_json, print_table, say
from posthouse.mail.address import parse_address
from posthouse.model.errors import Refused

commands = typer.Typer(help="Addresses that get no mail any more, and why.", no_args_is_help=True)


@commands.command("list")
def list_(data: Data = None, json: Json = False, limit: int = 100) -> None:
    """Show suppressed addresses, newest first."""
    run(lambda: _list(data, json, limit))


@commands.command()
def lift(
    address: str,
    reason: Annotated[str, typer.Option("--reason", help="Why; it is recorded.")],
    data: Data = None,
) -> None:
    """Let an address receive mail again.

    Example: posthouse suppression lift ann@example.com --reason "she wrote to us on 3 May"
    """
    run(lambda: _lift(address, reason, data))


async def _list(data: Data, json: bool, limit: int) -> None:
    async with opened(data) as app:
        rows = await reputation.list_suppressed(app.db, MAIN_WORKSPACE, limit)
    if json:
        print_json(rows)
    elif not rows:
        say("Nobody is suppressed.")
    else:
        print_table(
            "Suppressed addresses",
            ("address", "what", "cause", "since"),
            [(row["address_key"], row["scope"], row["cause"], row["at"].date()) for row in rows],
            numbers_from=9,
        )


async def _lift(address: str, reason: str, data: Data) -> None:
    wanted = parse_address(address).text
    if not reason.strip():
        raise Refused("Say why with --reason: it is recorded.")
    async with opened(data) as app:
        if not await reputation.lift(app.db, MAIN_WORKSPACE, wanted, app.clock.now(), reason):
            raise Refused(f"{wanted} is not suppressed.")
    say(f"{wanted} may receive mail again.")
