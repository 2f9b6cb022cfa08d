"""The program `posthouse`: its commands, and what happens when one of them is refused."""

from __future__ import annotations

import sys

import typer

from posthouse.cli import (
    attention,
    campaign,
    contacts,
    demo,
    domain,
    installation,
    message,
    queue,
    report,
    rules,
    source,
    suppression,
)
from posthouse.model.errors import PosthouseError

program = typer.Typer(
    name="posthouse",
    help="Self-hosted mass email: lists, campaigns, a delivery engine of its own, and an account of every recipient.",
    epilog="Begin with: posthouse demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
installation.register(program)
program.add_typer(domain.commands, name="domain")
program.add_typer(contacts.commands, name="contacts")
program.add_typer(campaign.commands, name="campaign")
program.add_typer(message.commands, name="message")
program.add_typer(suppression.commands, name="suppression")
program.add_typer(source.sources, name="source")
program.add_typer(source.pools, name="pool")
program.add_typer(source.streams, name="stream")
program.add_typer(rules.commands, name="rules")
program.add_typer(attention.attention, name="attention")
program.add_typer(attention.brakes, name="brake")
queue.register(program)
report.register(program)
demo.register(program)


def main() -> None:
    """Run the program; a refusal is one sentence on standard error and exit code 1."""
    try:
        program()
    except PosthouseError as error:
        print(f"posthouse: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
