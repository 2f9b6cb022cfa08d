"""How people reach web pages: every host name leads to the sender's public address, and to nowhere else."""

from __future__ import annotations

import ssl
from pathlib import Path
from socket import AF_INET, AddressFamily

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

_SECONDS = 30.0
_AT_ONCE = 48
_ONE_CLICK = ("List-Unsubscribe", "One-Click")
_HEADERS = {
    "User-Agent": "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0 Safari/537.36"
}


class _OneWay(AbstractResolver):
    """Resolves every name to one address and port, whatever port the URL names."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address

    async def resolve(self, host: str, port: int = 0, family: AddressFamily = AF_INET) -> list[ResolveResult]:
        return [
            ResolveResult(hostname=host, host=self._address[0], port=self._address[1], family=AF_INET, proto=0, flags=0)
        ]

    async def close(self) -> None:
        """Nothing is held."""


class Visitor:
    """A browser without memory: no cookies, no referrer, no following of redirects (UNS-3). Must be closed."""

    def __init__(self, public_address: tuple[str, int], ca_file: Path) -> None:
        """ca_file: the only authority that is trusted. Needs a running event loop."""
        context = ssl.create_default_context(cafile=ca_file)
        connector = aiohttp.TCPConnector(resolver=_OneWay(public_address), ssl=context, limit=_AT_ONCE, family=AF_INET)
        self._session = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=_SECONDS),
            headers=_HEADERS,
        )

    async def get(self, url: str) -> tuple[int, str]:
        """Fetch a page: the HTTP status and "", or 0 and what went wrong."""
        return await self._request("GET", url, None)

    async def post_one_click(self, url: str, *, as_form_data: bool) -> tuple[int, str]:
        """Leave a list (RFC 8058 §3.1), as multipart/form-data or urlencoded; answers like `get`."""
        form = aiohttp.FormData(default_to_multipart=as_form_data)
        form.add_field(*_ONE_CLICK)
        return await self._request("POST", url, form)

    async def close(self) -> None:
        """Close every connection."""
        await self._session.close()

    async def _request(self, method: str, url: str, form: aiohttp.FormData | None) -> tuple[int, str]:
        try:
            async with self._session.request(method, url, data=form, allow_redirects=False) as response:
                await response.read()
                return response.status, ""
        except (TimeoutError, aiohttp.ClientError, ValueError) as error:
            return 0, f"{type(error).__name__}: {error}"
