"""contacts import, lists: who receives."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from posthouse import audience
from posthouse.accounts import MAIN_WORKSPACE
from posthouse.cli.options import Data, Json, opened, run
from posthouse.cli.output import print_json, print_table, say
from posthouse.model.errors import Refused

commands = typer.Typer(help="Contacts and lists.", no_args_is_help=True)


@commands.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="CSV, TSV or XLSX, in any common encoding.", metavar="FILE")],
    list_name: Annotated[str, typer.Option("--list", help="The list they join; it is made if missing.")],
    mapping: Annotated[
        list[str] | None,
        typer.Option("--map", help="column=field; may be given several times.", metavar="COLUMN=FIELD"),
    ] = None,
    basis: Annotated[str, typer.Option(help="Why you may write to them, such as “signed up on our site”.")] = "",
    rejects: Annotated[Path | None, typer.Option(help="Where invalid rows go; else beside the file.")] = None,
    data: Data = None,
    json: Json = False,
) -> None:
    """Import contacts into a list. Importing the same file twice changes nothing, and nobody is resubscribed.

    Examples:

      posthouse contacts import people.csv --list Newsletter

      posthouse contacts import export.xlsx --list Newsletter --map "E-Mail=email" --map "Vorname=first_name"
    """
    run(lambda: _import(file, list_name, mapping or [], basis, rejects, data, json))


@commands.command()
def lists(data: Data = None, json: Json = False) -> None:
    """Show all lists with their sizes."""
    run(lambda: _lists(data, json))


def parse_mapping(pairs: list[str]) -> dict[str, str]:
    """column → field of --map options. Raises Refused."""
    mapping = {}
    for pair in pairs:
        column, equals, field = pair.rpartition("=")
        if not equals or not column.strip() or not field.strip():
            raise Refused(f'--map {pair!r} is not of the form COLUMN=FIELD, such as --map "E-Mail=email".')
        mapping[column.strip()] = field.strip()
    return mapping


async def _import(
    file: Path, list_name: str, pairs: list[str], basis: str, rejects: Path | None, data: Data, json: bool
) -> None:
    mapping = parse_mapping(pairs)
    rejects = rejects or file.with_name(f"{file.stem}.rejects.csv")
    async with opened(data) as app:
        now = app.clock.now()
        async with app.db.acquire() as connection:
            chosen = await audience.ensure_list(connection, MAIN_WORKSPACE, list_name, now)
        with _progress(file.name) as bar:
            task = bar.add_task(file.name, total=None)
            report = await audience.import_contacts(
                app.db,
                workspace_id=MAIN_WORKSPACE,
                list_id=chosen.list_id,
                path=file,
                mapping=mapping,
                basis=basis or None,
                source=f"import of {file.name}",
                at=now,
                rejects=rejects,
                progress=lambda so_far: bar.update(task, completed=so_far.rows),
            )
    if json:
        print_json(report)
        return
    say(
        f"{report.rows:,} rows read: {report.added:,} new, {report.updated:,} updated, {report.unchanged:,} unchanged, "
        f"{report.merged:,} merged into others, {report.rejected:,} rejected."
    )
    if report.rejected:
        say(f"The rejected rows, with reasons, are in {rejects}.")


def _progress(name: str) -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("rows"),
        TimeElapsedColumn(),
        disable=not sys.stderr.isatty(),
        transient=True,
    )


async def _lists(data: Data, json: bool) -> None:
    async with opened(data) as app, app.db.acquire() as connection:
        found = await audience.list_lists(connection, MAIN_WORKSPACE)
    if json:
        print_json(found)
    elif not found:
        say("There is no list yet: posthouse contacts import FILE --list NAME")
    else:
        print_table("Lists", ("list", "subscribed"), [(each.name, each.subscribed) for each in found])
