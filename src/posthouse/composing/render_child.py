"""The parent's side of the render child: starts it, watches it, and finds out whose rendering brought it down.

When the child dies or its time is over, those without an answer are tried again in a new one that answers recipient by recipient: now the
first without an answer is the suspect. It is tried once more, alone; a further failure proves it guilty, and the rest go on. Three guilty
recipients quarantine the template.
"""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from hashlib import sha256
from types import TracebackType
from typing import Any, Self

import msgspec

from posthouse.composing.draft import RenderFailed
from posthouse.model.errors import PosthouseError

BATCH = 64
_MEMORY = 256 * 1024 * 1024
# A batch takes about 5 ms of processor time. That is what counts: on a busy machine a harmless one may wait for its turn.
_SECONDS_PER_BATCH = 2.0
_WATCH_SECONDS = 0.05
# A child that neither works nor answers is given up after this multiple, by the wall clock.
_WALL_FACTOR = 15
_SECONDS_TO_START = 20.0
_GUILTY_TO_QUARANTINE = 3
_LENGTH_OCTETS = 4
_LARGEST_ANSWER = 16 * 1024 * 1024
_READ_AHEAD = 256 * 1024

Values = Mapping[str, Any]
Sources = Mapping[str, str]


class ChildUnavailable(PosthouseError):
    """The render process cannot be started."""


class _ChildFailed(Exception):
    """The render child died, hung, or said something that it must not say, while it was at work."""


class RenderChild:
    """One disposable process for all campaigns of a sender. Use as an asynchronous context, or call `close`."""

    def __init__(
        self, seconds_per_batch: float = _SECONDS_PER_BATCH, memory: int = _MEMORY, second_chance: bool = True
    ) -> None:
        """seconds_per_batch: processor time of the child; memory: octets of address space that it may have; second_chance: False
        quarantines at the first failure.
        """
        self._seconds = seconds_per_batch
        self._second_chance = second_chance
        self._memory = memory
        self._process: subprocess.Popen[bytes] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None
        self._loaded: bytes | None = None
        self._guilty: dict[bytes, int] = {}
        self._turn = asyncio.Lock()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def pid(self) -> int | None:
        """The child's process id, while there is one."""
        return self._process.pid if self._process else None

    async def render(self, sources: Sources, batch: Sequence[Values]) -> list[list[bytes] | RenderFailed]:
        """Each recipient's parts in the order of `sources`, or why there are none; one answer for each of `batch`.

        Raises ChildUnavailable when the machine cannot start a process, which is no recipient's fault.
        """
        key = _key(sources)
        answers: list[list[bytes] | RenderFailed] = []
        one_by_one = not self._second_chance
        async with self._turn:
            while len(answers) < len(batch):
                if self.is_quarantined(sources):
                    answers += [_QUARANTINED] * (len(batch) - len(answers))
                    break
                try:
                    await self._ask(sources, batch[len(answers) : len(answers) + BATCH], answers, one_by_one)
                except _ChildFailed as failure:
                    if one_by_one:
                        answers.append(await self._judge(key, sources, batch[len(answers)], failure))
                    one_by_one = True
        return answers

    def is_quarantined(self, sources: Sources) -> bool:
        """Whether this template has brought the child down too often to be tried again."""
        return self._guilty.get(_key(sources), 0) >= _GUILTY_TO_QUARANTINE

    async def close(self) -> None:
        """End the child, at once."""
        process, self._process = self._process, None
        writer, self._writer, self._reader, self._loaded = self._writer, None, None, None
        if writer is not None:
            writer.close()
        if process is not None:
            process.kill()
            await asyncio.to_thread(process.wait)

    async def _judge(
        self, key: bytes, sources: Sources, suspect: Values, failure: _ChildFailed
    ) -> list[bytes] | RenderFailed:
        if not self._second_chance:
            self._guilty[key] = _GUILTY_TO_QUARANTINE
            return RenderFailed(str(failure), child_lost=True, quarantined=True)
        alone: list[list[bytes] | RenderFailed] = []
        try:
            await self._ask(sources, [suspect], alone, one_by_one=True)
        except _ChildFailed as proof:
            self._guilty[key] = self._guilty.get(key, 0) + 1
            return RenderFailed(str(proof), child_lost=True, quarantined=self.is_quarantined(sources))
        return alone[0]

    async def _ask(
        self, sources: Sources, batch: Sequence[Values], answers: list[list[bytes] | RenderFailed], one_by_one: bool
    ) -> None:
        """Append an answer for each of `batch`. Raises _ChildFailed after those that came; the child is gone then."""
        if self._process is None:
            await self._start()
        assert self._process is not None
        watch = asyncio.create_task(_kill_when_over(self._process, self._seconds))
        try:
            await self._load(sources)
            await self._send({"render": batch, "each": one_by_one})
            async with asyncio.timeout(self._seconds * _WALL_FACTOR):
                for _ in batch:
                    answers.append(await self._answer())
        except (OSError, EOFError, TimeoutError, msgspec.MsgspecError) as error:
            await self.close()
            slow = isinstance(error, TimeoutError) or (watch.done() and watch.result())
            raise _ChildFailed(
                f"Rendering took more than {self._seconds:g} s and was stopped."
                if slow
                else "Rendering needed more memory than it may have, or broke the render process."
            ) from error
        except asyncio.CancelledError:
            # Half a conversation is left in the socket.
            await self.close()
            raise
        finally:
            watch.cancel()

    async def _load(self, sources: Sources) -> None:
        key = _key(sources)
        if self._loaded != key:
            await self._send({"load": sources})
            self._loaded = key

    async def _start(self) -> None:
        ours, theirs = socket.socketpair()
        try:
            with theirs:
                self._process = _spawn(theirs, self._memory)
            self._reader, self._writer = await asyncio.open_unix_connection(sock=ours, limit=_READ_AHEAD)
            async with asyncio.timeout(_SECONDS_TO_START):
                await self._answer()
        except (OSError, EOFError, TimeoutError, msgspec.MsgspecError) as error:
            await self.close()
            ours.close()
            raise ChildUnavailable(f"The render process cannot be started: {error or type(error).__name__}.") from error

    async def _send(self, request: Mapping[str, Any]) -> None:
        if self._writer is None:
            raise EOFError
        encoded = msgspec.msgpack.encode(request)
        self._writer.write(len(encoded).to_bytes(_LENGTH_OCTETS, "big") + encoded)

    async def _answer(self) -> list[bytes] | RenderFailed:
        if self._reader is None:
            raise EOFError
        length = int.from_bytes(await self._reader.readexactly(_LENGTH_OCTETS), "big")
        if length > _LARGEST_ANSWER:
            raise EOFError
        answer = msgspec.msgpack.decode(await self._reader.readexactly(length), type=_Answer)
        return answer.parts if answer.error is None else RenderFailed(answer.error)


async def _kill_when_over(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Kill a child that uses more processor time than it may from now on; True when it did, False when it was gone before."""
    # The clock of another process, as clock_getcpuclockid(3) makes it.
    clock = ~process.pid << 3 | 2
    try:
        limit = time.clock_gettime(clock) + seconds
        while time.clock_gettime(clock) < limit:  # noqa: ASYNC110 -- no event tells how long another process has worked
            await asyncio.sleep(_WATCH_SECONDS)
    except OSError:
        return False
    process.kill()
    return True


def _spawn(connection: socket.socket, memory: int) -> subprocess.Popen[bytes]:
    descriptor = connection.fileno()
    return subprocess.Popen(
        [sys.executable, "-m", "posthouse.composing.child", str(descriptor), str(os.getpid()), str(memory)],
        pass_fds=[descriptor],
        stdin=subprocess.DEVNULL,
        # Nothing of our environment, which may hold secrets: only where the code is.
        env={"PYTHONPATH": os.pathsep.join(path for path in sys.path if path), "MALLOC_ARENA_MAX": "1"},
    )


class _Answer(msgspec.Struct, frozen=True):
    """What the child may say, and nothing else."""

    ready: bool = False
    parts: list[bytes] = []
    error: str | None = None


_QUARANTINED = RenderFailed(
    "The template has brought the render process down too often and is not tried again.", quarantined=True
)


def _key(sources: Sources) -> bytes:
    return sha256(msgspec.msgpack.encode(sources)).digest()
