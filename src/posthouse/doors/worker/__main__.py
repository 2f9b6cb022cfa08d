"""One child of the supervisor: `python -m posthouse.doors.worker front|sender …`. Says "ready", or one sentence, on its output."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from posthouse.app import App, open_app
from posthouse.data_directory import DataDirectory
from posthouse.doors.worker.logs import configure_logs
from posthouse.model.errors import PosthouseError
from posthouse.settings import load_settings

_log = structlog.get_logger()
_SENDER_CONNECTIONS = 4
_FRONT_CONNECTIONS = 8


def main() -> None:
    """Run one role until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser()
    roles = parser.add_subparsers(dest="role", required=True)
    front = roles.add_parser("front")
    front.add_argument("senders", type=int)
    sender = roles.add_parser("sender")
    sender.add_argument("slot", type=int)
    sender.add_argument("senders", type=int)
    for each in (front, sender):
        each.add_argument("--data", type=Path, required=True)
        each.add_argument("--sandbox", action="store_true")
    arguments = parser.parse_args()
    try:
        with asyncio.Runner(loop_factory=_loop_factory()) as runner:
            runner.run(_run(arguments))
    except PosthouseError as error:
        _say(str(error))
        sys.exit(1)


async def _run(arguments: argparse.Namespace) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    directory = DataDirectory(arguments.data)
    settings = load_settings(directory.settings_file)
    configure_logs(settings.log.level, mask_addresses=settings.log.mask_addresses)
    is_front = arguments.role == "front"
    connections = _FRONT_CONNECTIONS if is_front else _SENDER_CONNECTIONS
    async with open_app(directory, settings, sandbox=arguments.sandbox, connections=connections, guard=is_front) as app:
        await _role(arguments)(app, stop)


def _role(arguments: argparse.Namespace) -> Callable[[App, asyncio.Event], Awaitable[None]]:
    """The chosen role; imported late, so that a sender does not carry the web server."""
    if arguments.role == "front":
        from posthouse.doors.worker.front import run_front

        return lambda app, stop: run_front(app, arguments.senders, stop, ready)

    from posthouse.flows.deliver import deliver

    async def send(app: App, stop: asyncio.Event) -> None:
        ready()
        try:
            await deliver(app, arguments.slot, arguments.senders, stop)
        except PosthouseError as error:
            _log.error(
                "a sender cannot go on", slot=arguments.slot, reason=str(error)
            )  # nobody reads our output any more
            raise

    return send


def ready() -> None:
    """Tell the supervisor that this child is at work."""
    _say("ready")


def _say(line: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(line, flush=True)  # noqa: T201 -- the supervisor reads this line


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


if __name__ == "__main__":
    main()
