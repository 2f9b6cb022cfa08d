"""Options that many commands share, and the opening of an installation."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from posthouse.app import App, open_app
from posthouse.data_directory import DataDirectory
from posthouse.settings import Settings, load_settings

Data = Annotated[
    Path | None,
    typer.Option("--data", help="Data directory; else POSTHOUSE_DATA, else ./posthouse-data.", show_default=False),
]
Json = Annotated[bool, typer.Option("--json", help="Print the report as JSON.")]
T = TypeVar("T")


def installation(data: Path | None, overrides: Mapping[str, str] | None = None) -> tuple[DataDirectory, Settings]:
    """The data directory and its settings; `overrides` count as environment. Raises DataDirectoryWrong or SettingWrong."""
    import os

    directory = DataDirectory.of(data)
    directory.require()
    return directory, load_settings(directory.settings_file, {**os.environ, **(overrides or {})})


@asynccontextmanager
async def opened(data: Path | None) -> AsyncIterator[App]:
    """The installation, opened for one command."""
    directory, settings = installation(data)
    async with open_app(directory, settings) as app:
        yield app


def run(work: Callable[[], Awaitable[T]]) -> T:
    """Run one asynchronous command."""

    async def whole() -> T:
        return await work()

    import uvloop

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(whole())
