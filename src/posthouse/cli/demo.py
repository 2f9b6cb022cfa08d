"""demo: the whole job in five minutes, on this machine, against mailbox providers that are made up but have manners."""

from __future__ import annotations

import shutil
import sys
from importlib import resources
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from posthouse import audience
from posthouse.accounts import REHEARSAL_WORKSPACE, create_key
from posthouse.audience import ImportReport
from posthouse.audience.sample import SampleFacts, write_sample
from posthouse.cli.campaign import read_draft
from posthouse.cli.options import Json, run
from posthouse.cli.output import console, say
from posthouse.cli.rehearsal import Stage, perform, set_stage, show_result
from posthouse.data_directory import DataDirectory
from posthouse.flows.plan import Order
from posthouse.model.errors import DataDirectoryWrong, Refused

_DIRECTORY = Path("posthouse-demo")
_SENDER_DOMAIN = "posthouse.example"
_MARK = "this is a demo"


def register(program: typer.Typer) -> None:
    """Add this command to the program."""
    program.command()(demo)


def demo(
    recipients: Annotated[int, typer.Option(min=1, max=10_000_000, help="How many rows the sample list has.")] = 5_000,
    seed: Annotated[int, typer.Option(help="The same seed gives the same people and providers.")] = 1,
    data: Annotated[
        Path, typer.Option("--data", help="Where the demo keeps its things; emptied at every run.")
    ] = _DIRECTORY,
    json: Json = False,
) -> None:
    """Import a messy list, send a newsletter to it in the sandbox, hear what comes back, and account for everybody.

    Example: posthouse demo --recipients 20000
    """
    run(lambda: _demo(recipients, seed, data, json))


async def _demo(recipients: int, seed: int, data: Path, json: bool) -> None:
    directory = _empty_directory(data)
    tell = (lambda text: print(text, file=sys.stderr)) if json else say
    tell("A sandbox internet starts: DNS, mailbox providers, people. Nothing leaves this machine.")
    settings = {
        "POSTHOUSE_SENDER_POSTAL_ADDRESS": "Posthouse Demo, 1 Coach Road, 12345 Sampletown",
        "POSTHOUSE_PUBLIC_URL": f"https://mail.{_SENDER_DOMAIN}",
    }
    async with set_stage(directory, _SENDER_DOMAIN, seed=seed, extra=settings) as stage:
        facts, report, chosen = await _import(stage, directory, recipients, seed, json)
        tell(
            f"Imported {facts.rows:,} rows of a messy export: {report.added:,} contacts, {report.merged:,} duplicates merged, "
            f"{report.rejected:,} rejected."
        )
        draft = read_draft(
            _example("newsletter.mjml"),
            None,
            "{{ first_name|default('Hello') }}, the autumn timetable is here",
            f"news@{_SENDER_DOMAIN}",
            "Posthouse Demo",
            None,
        )
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            console=console,
            disable=json or not sys.stdout.isatty(),
            transient=True,
        ) as bar:
            task = bar.add_task("accounted for", total=None)
            result = await perform(
                stage,
                Order(REHEARSAL_WORKSPACE, "Demo newsletter", chosen, draft),
                lambda done, total: bar.update(task, completed=done, total=total or None),
            )
    imported = {
        "imported": {
            "rows": facts.rows,
            "contacts": report.added,
            "merged": report.merged,
            "rejected": report.rejected,
        }
    }
    show_result(result, json=json, before=imported)
    problems = _import_problems(facts, report, result.campaign.queued)
    if problems:
        raise Refused(f"The import does not reconcile: {'; '.join(problems)}.")
    if not result.reconciliation.is_clean:
        raise Refused("The demo does not reconcile; see the lines above.")
    tell("What to do next:")
    tell(f"  posthouse report --data {data}            the campaign again")
    tell(f"  posthouse message show 1 --data {data}    the whole life of one copy")
    tell("  posthouse init                                     your own installation")


def _empty_directory(data: Path) -> DataDirectory:
    """A fresh data directory; an old one is removed only when it is a demo's."""
    directory = DataDirectory(data)
    mark = directory.path / ".demo"
    if directory.path.exists():
        if not mark.exists() and any(directory.path.iterdir()):
            raise DataDirectoryWrong(
                f"{directory.path} is not a demo's directory, so it is not emptied: choose another --data."
            )
        cluster = directory.path / "postgres"
        if cluster.is_symlink():
            shutil.rmtree(cluster.resolve(), ignore_errors=True)
        shutil.rmtree(directory.path)
    directory.create()
    mark.write_text(_MARK + "\n", encoding="utf-8")
    create_key(directory.key_file)
    return directory


async def _import(
    stage: Stage, directory: DataDirectory, recipients: int, seed: int, json: bool
) -> tuple[SampleFacts, ImportReport, audience.List]:
    app = stage.app
    sample = directory.path / "contacts.csv"
    facts = write_sample(sample, recipients, seed)
    now = app.clock.now()
    async with app.db.acquire() as connection:
        chosen = await audience.ensure_list(connection, REHEARSAL_WORKSPACE, "Newsletter", now)
    report = await audience.import_contacts(
        app.db,
        workspace_id=REHEARSAL_WORKSPACE,
        list_id=chosen.list_id,
        path=sample,
        mapping={},
        basis="signed up for the demo",
        source="demo",
        at=now,
        rejects=directory.path / "contacts.rejects.csv",
        progress=lambda _: None,
    )
    return facts, report, chosen


def _import_problems(facts: SampleFacts, report: ImportReport, queued: int) -> list[str]:
    problems = []
    if report.added != facts.addresses:
        problems.append(f"{facts.addresses} addresses were in the file, {report.added} contacts came of it")
    if report.rejected != facts.rejects:
        problems.append(f"{facts.rejects} rows were invalid, {report.rejected} were rejected")
    if queued != report.added:
        problems.append(f"{report.added} contacts were imported, {queued} messages were queued")
    return problems


def _example(name: str) -> Path:
    return Path(str(resources.files("posthouse.cli").joinpath("examples", name)))
