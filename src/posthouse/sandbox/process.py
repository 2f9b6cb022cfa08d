"""The sandbox as a process of its own: how it is started, waited for and stopped, and how it runs."""

from __future__ import annotations

import asyncio
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from time import monotonic
from types import TracebackType
from typing import Self

import msgspec

from posthouse.sandbox.plan import Plan, Ready, SandboxUnavailable, check_plan, ready_from_json, to_json
from posthouse.sandbox.records import Record, read_records
from posthouse.sandbox.status import Status, read_status

_READY_SECONDS = 30.0
_STOP_SECONDS = 10.0
_LOOK_FOR_PARENT_SECONDS = 0.25
_WITH_PARENT = "--with-parent"


class Sandbox:
    """A running sandbox process, as its parent sees it. Leaving the `with` block stops it."""

    def __init__(self, process: subprocess.Popen[bytes], ready: Ready) -> None:
        self._process = process
        self.ready = ready

    def records(self) -> Iterator[Record]:
        """Everything that is written down so far."""
        return read_records(self.ready.record_file)

    def status(self) -> Status:
        """How far it has come, at most about 100 ms ago."""
        return read_status(self.ready.status_file)

    def stop(self) -> int:
        """End the process after it has written everything down; gives its exit code, 0 where it ended well. May be called twice."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def start(plan: Plan) -> Sandbox:
    """Run a sandbox in a process of its own and wait until it listens. It ends with this process, however this one ends.

    Raises PlanWrong, or SandboxUnavailable with the child's own sentence.
    """
    check_plan(plan)
    plan.directory.mkdir(parents=True, exist_ok=True)
    plan_file = plan.directory / "plan.json"
    plan_file.write_bytes(to_json(plan))
    log = plan.directory / "sandbox.log"
    with log.open("ab") as errors:
        began = errors.tell()
        process = subprocess.Popen(
            [sys.executable, "-m", "posthouse.sandbox", _WITH_PARENT, str(plan_file)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
        )
    line = _first_line(process)
    try:
        return Sandbox(process, ready_from_json(line))
    except msgspec.DecodeError as error:
        process.kill()
        process.communicate()
        said = log.read_bytes()[began:].decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise SandboxUnavailable(said or f"The sandbox was not ready in {_READY_SECONDS:.0f} seconds.") from error


def _first_line(process: subprocess.Popen[bytes]) -> bytes:
    assert process.stdout is not None
    descriptor = process.stdout.fileno()
    deadline = monotonic() + _READY_SECONDS
    line = b""
    while not line.endswith(b"\n"):
        readable, _, _ = select.select([descriptor], [], [], max(0.0, deadline - monotonic()))
        chunk = os.read(descriptor, 65536) if readable else b""
        if not chunk:
            break
        line += chunk
    return line


def run(plan: Plan, announce: Callable[[Ready], None], *, with_parent: bool) -> None:
    """Be the sandbox until SIGINT or SIGTERM, or until stdin ends or the parent dies where `with_parent` is set."""
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(_serve(plan, announce, with_parent))


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


async def _serve(plan: Plan, announce: Callable[[Ready], None], with_parent: bool) -> None:
    # Only the child pays for the servers and the web client; its parent merely starts it.
    from posthouse.sandbox.service import Service

    service = Service(plan)
    ready = await service.open()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    watch = loop.create_task(_watch_parent(stop)) if with_parent else None
    try:
        announce(ready)
        await service.run(stop)
    finally:
        if watch is not None:
            watch.cancel()
        await service.close()


async def _watch_parent(stop: asyncio.Event) -> None:
    """Two signs, because a sibling forked by the parent may hold our stdin open after the parent's death."""
    parent = os.getppid()
    loop = asyncio.get_running_loop()
    loop.add_reader(sys.stdin.fileno(), _on_stdin, stop)
    while os.getppid() == parent:  # noqa: ASYNC110 -- the kernel offers no event for this that needs no thread
        await asyncio.sleep(_LOOK_FOR_PARENT_SECONDS)
    stop.set()


def _on_stdin(stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        asyncio.get_running_loop().remove_reader(sys.stdin.fileno())
        stop.set()
