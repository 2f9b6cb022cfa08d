"""Clocks around real functions: CPU time of a thread by stage, that of an inner stage not counted for the outer one."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterator
from contextlib import contextmanager
from typing import Any


class Clocks:
    """CPU seconds by stage, of all threads."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.calls: dict[str, int] = defaultdict(int)
        self._threads = threading.local()

    def around(self, stage: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, its CPU time counted."""

        def timed(*arguments: Any, **named: Any) -> Any:
            began = self._enter()
            try:
                return function(*arguments, **named)
            finally:
                self._leave(stage, began)

        return timed

    def around_coroutine(
        self, stage: str, function: Callable[..., Coroutine[Any, Any, Any]]
    ) -> Callable[..., Awaitable[Any]]:
        """The same coroutine function: counted from each time that it is woken to the next time that it waits."""

        def timed(*arguments: Any, **named: Any) -> Awaitable[Any]:
            return _Stepped(function(*arguments, **named), self.around(stage, _step))

        return timed

    @contextmanager
    def patched(self, *functions: tuple[str, Any, str], coroutines: tuple[tuple[str, Any, str], ...]) -> Iterator[None]:
        """Put clocks around functions and coroutine functions, each given as (stage, owner, name), and take them off again."""
        originals = [(owner, name, getattr(owner, name)) for _, owner, name in (*functions, *coroutines)]
        for stage, owner, name in functions:
            setattr(owner, name, self.around(stage, getattr(owner, name)))
        for stage, owner, name in coroutines:
            setattr(owner, name, self.around_coroutine(stage, getattr(owner, name)))
        try:
            yield
        finally:
            for owner, name, function in originals:
                setattr(owner, name, function)

    def _enter(self) -> float:
        inner: list[float] | None = getattr(self._threads, "inner", None)
        if inner is None:
            inner = self._threads.inner = [0.0]
        inner.append(0.0)
        return time.thread_time()

    def _leave(self, stage: str, began: float) -> None:
        used = time.thread_time() - began
        inner = self._threads.inner
        self.seconds[stage] += used - inner.pop()
        self.calls[stage] += 1
        inner[-1] += used


class _Stepped:
    """A coroutine of which every step goes through a function."""

    def __init__(self, coroutine: Coroutine[Any, Any, Any], step: Callable[..., Any]) -> None:
        self._coroutine = coroutine
        self._step = step

    def __await__(self) -> Generator[Any, Any, Any]:
        resume: Callable[[Any], Any] = self._coroutine.send
        value: Any = None
        while True:
            ended, result = self._step(resume, value)
            if ended:
                return result
            try:
                resume, value = self._coroutine.send, (yield result)
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as error:
                resume, value = self._coroutine.throw, error


def _step(resume: Callable[[Any], Any], value: Any) -> tuple[bool, Any]:
    """(whether the coroutine ended, what it returned or waits for)."""
    try:
        return False, resume(value)
    except StopIteration as end:
        return True, end.value
