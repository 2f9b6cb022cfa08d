"""What stories share: an installation on a fresh database, and a pace to look at it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest

from posthouse.accounts import create_key
from posthouse.app import App, open_app
from posthouse.data_directory import DataDirectory
from posthouse.settings import Settings


@pytest.fixture
async def open_house(database_url: str, tmp_path: Path) -> AsyncIterator[Callable[..., Awaitable[App]]]:
    """Opens the installation on the fresh database; the keywords are sections of its settings."""
    directory = DataDirectory(tmp_path / "data")
    directory.create()
    create_key(directory.key_file)
    async with AsyncExitStack() as stack:

        async def begin(**sections: dict[str, Any]) -> App:
            settings = msgspec.convert(
                {"database": {"url": database_url}, "journal": {"segment_megabytes": 1}, **sections}, Settings
            )
            return await stack.enter_async_context(open_app(directory, settings))

        yield begin


@pytest.fixture
def until() -> Callable[[Callable[[], Awaitable[bool]]], Awaitable[None]]:
    """Waits for what others bring about; fails where it never comes."""

    async def wait(holds: Callable[[], Awaitable[bool]]) -> None:
        async with asyncio.timeout(30):
            while not await holds():
                await asyncio.sleep(0.02)

    return wait
