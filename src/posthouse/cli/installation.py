"""init, up, settings: making an installation and running it."""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal

import typer

from posthouse.accounts import create_key
from posthouse.cli.options import Data, Json, installation, run
from posthouse.cli.output import print_json, print_table, say
from posthouse.data_directory import DataDirectory
from posthouse.model.errors import Refused
from posthouse.settings import setting_rows


def register(program: typer.Typer) -> None:
    """Add these commands to the program."""
    program.command()(init)
    program.command()(up)
    program.command()(settings)


def init(data: Data = None) -> None:
    """Create a data directory with a commented posthouse.toml and a master key.

    Example: posthouse init --data /srv/posthouse
    """
    directory = DataDirectory.of(data)
    made = directory.create()
    create_key(directory.key_file)
    if made:
        say(f"Created {directory.path}.")
        say(f"The master key is {directory.key_file}: keep a copy of it apart from your backups.")
        say("Next: posthouse domain add YOUR-DOMAIN, then posthouse contacts import FILE --list NAME.")
    else:
        say(f"{directory.path} is a data directory already; nothing was changed.")


def up(data: Data = None) -> None:
    """Run everything in the foreground: database, doors and one sender per core. Stop it with Ctrl-C or SIGTERM.

    Example: posthouse up --data /srv/posthouse
    """
    run(lambda: _up(data))


def settings(data: Data = None, json: Json = False) -> None:
    """Show every setting with its value and its meaning.

    Example: posthouse settings
    """
    _, in_force = installation(data)
    rows = [(name, _without_password(value), sentence) for name, value, sentence in setting_rows(in_force)]
    if json:
        print_json({name: value for name, value, _ in rows})
    else:
        print_table("Settings in force", ("setting", "value", "meaning"), rows, numbers_from=9)


def _without_password(value: object) -> object:
    return re.sub(r"(://[^:/@]*:)[^@]*@", r"\1…@", value) if isinstance(value, str) else value


async def _up(data: Data) -> None:
    from posthouse.app import open_app
    from posthouse.doors.worker import Supervisor
    from posthouse.doors.worker.logs import configure_logs

    directory, in_force = installation(data)
    configure_logs(in_force.log.level, mask_addresses=in_force.log.mask_addresses)
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with open_app(directory, in_force, connections=1), Supervisor(directory, in_force, sandbox=False) as host:
        say(f"Posthouse runs on {directory.path}, senders: {host.senders}. Stop it with Ctrl-C.")
        say(f"Web door {in_force.public.listen}, SMTP door {in_force.inbound.listen}.")
        failed = asyncio.create_task(host.failed())
        stopped = asyncio.create_task(stop.wait())
        await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        reason = failed.result() if failed.done() else None
        for task in (failed, stopped):
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        say("Stopping: what is under way finishes first.")
    if reason is not None:
        raise Refused(f"Posthouse stopped: {reason}")
