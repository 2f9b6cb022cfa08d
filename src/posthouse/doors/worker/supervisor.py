"""The supervisor: starts the processes of one host, starts them again when they die, and stops them in order."""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import os
import signal
import sys
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

import structlog

from posthouse.data_directory import DataDirectory
from posthouse.model.errors import DataDirectoryWrong, Refused
from posthouse.settings import Settings

_log = structlog.get_logger()
_PR_SET_PDEATHSIG = 1
_STOP_SECONDS = 45.0
_READY_SECONDS = 60.0
_READY_LINE = b"ready\n"
# A child that dies this often in a row is not restarted any more: something is wrong that a person must see.
_MOST_FAILURES = 8
_STEADY_SECONDS = 30.0


class Supervisor:
    """Runs the front and the senders of one data directory; use as an asynchronous context.

    sandbox: deliver rehearsals instead of real mail. overrides: settings for the children, as environment variables.
    """

    def __init__(
        self, directory: DataDirectory, settings: Settings, *, sandbox: bool, overrides: Mapping[str, str] | None = None
    ) -> None:
        self._directory = directory
        self.senders = settings.delivery.senders or os.cpu_count() or 1
        self._sandbox = sandbox
        self._environment = {**os.environ, **(overrides or {})}
        self._lock: int | None = None
        self._keepers: list[asyncio.Task[None]] = []
        self._processes: dict[str, asyncio.subprocess.Process] = {}
        self._stopping = asyncio.Event()
        self._failed: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    @property
    def pids(self) -> dict[str, int]:
        """Name → process id of every running child."""
        return {name: process.pid for name, process in self._processes.items()}

    async def __aenter__(self) -> Self:
        """Start everything; returns when the doors are open. Raises DataDirectoryWrong or Refused with the reason."""
        self._take_lock()
        roles = {"front": ["front", str(self.senders)]}
        for slot in range(self.senders):
            roles[f"sender-{slot}"] = ["sender", str(slot), str(self.senders)]
        try:
            await self._start("front", roles["front"])
            for name, arguments in roles.items():
                self._keepers.append(asyncio.create_task(self._keep(name, arguments)))
        except BaseException:
            await self._stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop everything: in-flight messages finish."""
        await self._stop()

    async def failed(self) -> str:
        """Wait until a child cannot be kept alive; returns the sentence that says which."""
        return await asyncio.shield(self._failed)

    def _take_lock(self) -> None:
        path = self._directory.up_lock
        path.parent.mkdir(mode=0o700, exist_ok=True)
        self._lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = os.read(self._lock, 20).decode(errors="replace").strip()
            os.close(self._lock)
            self._lock = None
            raise DataDirectoryWrong(
                f"Posthouse runs on {self._directory.path} already (process {pid}): stop it first, or use another --data."
            ) from error
        os.ftruncate(self._lock, 0)
        os.write(self._lock, f"{os.getpid()}\n".encode())

    async def _start(self, name: str, arguments: list[str]) -> asyncio.subprocess.Process:
        command = [sys.executable, "-m", "posthouse.doors.worker", *arguments, "--data", str(self._directory.path)]
        if self._sandbox:
            command.append("--sandbox")
        process = await asyncio.create_subprocess_exec(
            *command,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            env=self._environment,
            start_new_session=True,
            preexec_fn=_stop_with_parent,
        )
        self._processes[name] = process
        assert process.stdout is not None
        try:
            line = await asyncio.wait_for(process.stdout.readline(), _READY_SECONDS)
        except TimeoutError:
            line = b""
        if line != _READY_LINE:
            reason = line.decode(errors="replace").strip() or f"The process {name} did not start; its log says why."
            if process.returncode is None:
                process.kill()
            await process.wait()
            del self._processes[name]
            raise Refused(reason)
        return process

    async def _keep(self, name: str, arguments: list[str]) -> None:
        failures = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                process = self._processes.get(name) or await self._start(name, arguments)
                code = await process.wait()
                self._processes.pop(name, None)
                reason = f"The process {name} ended with code {code}."
            except Refused as refused:
                reason = str(refused)
            if self._stopping.is_set():
                return
            failures = 0 if time.monotonic() - began > _STEADY_SECONDS else failures + 1
            _log.warning("a process ended and is started again", process=name, reason=reason)
            if failures >= _MOST_FAILURES:
                if not self._failed.done():
                    self._failed.set_result(reason)
                return
            await asyncio.sleep(min(0.1 * 2**failures, 5.0))

    async def _stop(self) -> None:
        self._stopping.set()
        # Senders first: the front may still hear what comes back for what they finish.
        for group in ("sender", "front"):
            members = [process for name, process in self._processes.items() if name.startswith(group)]
            for process in members:
                if process.returncode is None:
                    process.send_signal(signal.SIGTERM)
            for process in members:
                try:
                    await asyncio.wait_for(process.wait(), _STOP_SECONDS)
                except TimeoutError:
                    process.kill()
                    await process.wait()
        for keeper in self._keepers:
            keeper.cancel()
        await asyncio.gather(*self._keepers, return_exceptions=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _stop_with_parent() -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
