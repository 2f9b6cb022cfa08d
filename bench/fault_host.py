"""`posthouse up`, as an operator's init system would run it, but on the sandbox's clock: what the fault rounds kill and start again."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from posthouse.app import open_app
from posthouse.cli.options import installation
from posthouse.doors.worker import Supervisor
from posthouse.doors.worker.logs import configure_logs
from posthouse.model.errors import PosthouseError


async def _run(data: Path) -> int:
    directory, settings = installation(data)
    configure_logs(settings.log.level, mask_addresses=settings.log.mask_addresses)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with (
        open_app(directory, settings, sandbox=True, connections=1),
        Supervisor(directory, settings, sandbox=True) as host,
    ):
        print("ready", flush=True)
        failed, stopped = asyncio.create_task(host.failed()), asyncio.create_task(stop.wait())
        await asyncio.wait({failed, stopped}, return_when=asyncio.FIRST_COMPLETED)
        reason = failed.result() if failed.done() else None
        for task in (failed, stopped):
            task.cancel()
    if reason is not None:
        print(reason, file=sys.stderr, flush=True)
    return 0 if reason is None else 1


def main() -> None:
    """Run until SIGTERM; exit code 1 when it cannot run."""
    try:
        sys.exit(asyncio.run(_run(Path(sys.argv[1]))))
    except PosthouseError as error:
        print(error, file=sys.stderr, flush=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
