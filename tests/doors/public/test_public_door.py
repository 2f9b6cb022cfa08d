"""The public door over real sockets: what a browser, a mail provider and a scanner get, and what becomes news."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from html import unescape

import aiohttp
import pytest
import uvicorn

from posthouse.doors.public import PublicDoor
from posthouse.feedback import Heard
from posthouse.mail.tokens import Purpose, Subject, Tokens
from posthouse.model.events import EventKind

TOKENS = Tokens({1: b"k" * 32}, 1)
SUBJECT = Subject(7, 3, 2, 1_000_000, 123_456_789)
AT = 1_795_000_000_000_000
ONE_CLICK = "List-Unsubscribe=One-Click"
FORM = {"Content-Type": "application/x-www-form-urlencoded"}


class StandingClock:
    def now(self) -> datetime:
        return datetime.fromtimestamp(AT / 1_000_000, UTC)

    def now_us(self) -> int:
        return AT


class House:
    """The door, served, and what it was given to hand on."""

    def __init__(self) -> None:
        self.batches: list[list[Heard]] = []
        self.failures = 0
        self.door = PublicDoor(
            TOKENS,
            StandingClock(),
            self.listen,
            self.link_target,
            self.list_name,
            self.contact_address,
            body_seconds=0.3,
        )
        self.url = ""
        self.http: aiohttp.ClientSession

    @property
    def news(self) -> list[Heard]:
        return [heard for batch in self.batches for heard in batch]

    async def listen(self, batch: Sequence[Heard]) -> None:
        if self.failures:
            self.failures -= 1
            raise ConnectionError("the database is away")
        self.batches.append(list(batch))

    async def link_target(self, workspace_id: int, campaign_id: int, index: int) -> str | None:
        targets = [
            "https://example.com/?a=1&b=%20x#part",
            "https://example.com/käse",
            "javascript:alert(1)",
            "https://example.com/\r\nX: y",
        ]
        assert (workspace_id, campaign_id) == (7, 3)
        return targets[index] if index < len(targets) else None

    async def list_name(self, workspace_id: int, list_id: int) -> str | None:
        assert (workspace_id, list_id) == (7, 2)
        return "Cats & <Dogs>"

    async def contact_address(self, workspace_id: int, contact_id: int) -> str | None:
        assert (workspace_id, contact_id) == (7, 1_000_000)
        return 'anna"<b>@example.org'

    async def get(self, path: str, method: str = "GET", **more: str) -> tuple[aiohttp.ClientResponse, str]:
        async with self.http.request(method, self.url + path, allow_redirects=False, headers=more) as response:
            return response, (await response.read()).decode("utf-8", "replace")

    async def post(
        self, path: str, data: object, headers: dict[str, str] | None = None
    ) -> tuple[aiohttp.ClientResponse, str]:
        async with self.http.post(self.url + path, data=data, headers=headers, allow_redirects=False) as response:
            return response, await response.text()

    async def heard(self, count: int) -> list[Heard]:
        """The news, once there are `count`; the door hands it on within its 50 ms."""
        async with asyncio.timeout(10):
            while len(self.news) < count:
                await asyncio.sleep(0.01)
        return self.news


@pytest.fixture
async def house() -> AsyncIterator[House]:
    house = House()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(house.door, log_level="warning", lifespan="on", ws="none"))
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    while not server.started:
        await asyncio.sleep(0.01)
    house.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    async with aiohttp.ClientSession() as house.http:
        yield house
    server.should_exit = True
    await serving
    listener.close()


def link(purpose: Purpose) -> str:
    return TOKENS.link(purpose, SUBJECT)


OPEN, CLICK, UNSUBSCRIBE = link(Purpose.OPEN), link(Purpose.CLICK), link(Purpose.UNSUBSCRIBE)


# ── Opens ──


async def test_the_pixel_is_a_gif_that_nobody_keeps_and_becomes_an_open(house: House) -> None:
    async with house.http.get(f"{house.url}/o/{OPEN}.gif", headers={"User-Agent": "Mozilla/5.0"}) as response:
        body = await response.read()
    assert (response.status, response.content_type, body[:6], len(body)) == (200, "image/gif", b"GIF89a", 42)
    assert "no-store" in response.headers["Cache-Control"]
    (heard,) = await house.heard(1)
    assert (heard.subject, heard.kind, heard.at) == (SUBJECT, EventKind.OPENED, AT)
    assert heard.detail == {
        "class": "prefetch",
        "rule": "apple-mail-privacy",
        "user_agent": "Mozilla/5.0",
        "ip": "127.0.0.1",
    }


async def test_head_gets_the_header_alone_and_counts_as_a_scanner(house: House) -> None:
    response, body = await house.get(f"/o/{OPEN}.gif", "HEAD")
    assert (response.status, response.headers["Content-Length"], body) == (200, "42", "")
    assert (await house.heard(1))[0].detail["class"] == "scanner"


# ── Clicks (TRK-3) ──


async def test_a_click_leads_to_the_campaigns_own_target(house: House) -> None:
    response, _ = await house.get(f"/c/{CLICK}/0")
    assert (response.status, response.headers["Location"]) == (302, "https://example.com/?a=1&b=%20x#part")
    assert "no-store" in response.headers["Cache-Control"]
    (heard,) = await house.heard(1)
    assert (heard.kind, heard.detail["link"]) == (EventKind.CLICKED, 0)


async def test_a_target_outside_ascii_is_encoded_and_can_start_no_header(house: House) -> None:
    assert (await house.get(f"/c/{CLICK}/1"))[0].headers["Location"] == "https://example.com/k%C3%A4se"
    response, _ = await house.get(f"/c/{CLICK}/3")
    assert response.headers["Location"] == "https://example.com/%0D%0AX: y".replace(" ", "%20")
    assert "X" not in response.headers


async def test_a_personal_link_leads_where_it_was_sealed_to(house: House) -> None:
    target = "https://example.com/me?name=J%C3%B6rg&x=a+b"
    seal = TOKENS.seal_text(Purpose.CLICK, SUBJECT, target)
    async with house.http.get(
        f"{house.url}/r/{CLICK}", params={"to": target, "s": seal}, allow_redirects=False
    ) as response:
        assert (response.status, response.headers["Location"]) == (302, target)
    assert (await house.heard(1))[0].detail["url"] == target


# ── What is not ours ──


@pytest.mark.parametrize(
    "path",
    [
        f"/o/{CLICK}.gif",
        f"/o/{OPEN}",
        f"/o/{OPEN[:-1]}A.gif",
        f"/c/{OPEN}/0",
        f"/c/{CLICK}/4",
        f"/c/{CLICK}/2",
        f"/c/{CLICK}/-1",
        f"/c/{CLICK}/0/1",
        f"/c/{CLICK}",
        f"/r/{CLICK}?to=https://evil.example/&s=AAAA",
        f"/r/{CLICK}?to=https://evil.example/",
        f"/r/{CLICK}?%zz&&&=",
        f"/u/{OPEN}",
        "/u/",
        "/",
        "/o/%00%ff.gif",
        "//evil.example/",
    ],
)
async def test_a_wrong_link_is_a_plain_404_and_no_news(house: House, path: str) -> None:
    for method in ("GET", "HEAD"):
        response, body = await house.get(path, method)
        assert response.status == 404
        assert ("This link does not work" in body) == (method == "GET")
    await house.get(f"/o/{OPEN}.gif")
    assert len(await house.heard(1)) == 1


async def test_a_script_target_is_never_followed_even_if_sealed(house: House) -> None:
    target = "javascript:alert(1)"
    seal = TOKENS.seal_text(Purpose.CLICK, SUBJECT, target)
    async with house.http.get(
        f"{house.url}/r/{CLICK}", params={"to": target, "s": seal}, allow_redirects=False
    ) as response:
        assert response.status == 404


@pytest.mark.parametrize("path", ["/o/" + "a" * 600 + ".gif", f"/r/{CLICK}?to=" + "a" * 9000])
async def test_an_endless_address_is_refused(house: House, path: str) -> None:
    assert (await house.get(path))[0].status == 414


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("POST", f"/o/{OPEN}.gif", "GET, HEAD"), ("DELETE", f"/u/{UNSUBSCRIBE}", "GET, HEAD, POST")],
)
async def test_another_method_is_refused_and_no_news(house: House, method: str, path: str, allowed: str) -> None:
    response, _ = await house.get(path, method)
    assert (response.status, response.headers["Allow"]) == (405, allowed)
    assert house.news == []


async def test_health_is_told(house: House) -> None:
    response, body = await house.get("/healthz")
    assert (response.status, body) == (200, "ok\n")


# ── Unsubscribing (UNS-3, UNS-4) ──


async def test_looking_at_the_page_changes_nothing(house: House) -> None:
    for method in ("GET", "HEAD", "GET"):
        response, body = await house.get(f"/u/{UNSUBSCRIBE}", method)
        assert response.status == 200
    assert "Unsubscribe from Cats &amp; &lt;Dogs&gt;?" in body
    assert 'anna"<b>@example.org' in unescape(body)
    assert "<b>" not in body
    await house.door.close()
    assert house.news == []


async def test_the_page_runs_nothing_and_loads_nothing(house: House) -> None:
    response, body = await house.get(f"/u/{UNSUBSCRIBE}")
    policy = response.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "frame-ancestors 'none'" in policy
    assert not re.search(r"<script|<img|<link|https?://|\son\w+=", body)
    assert body.count("<h1") == body.count("<main") == body.count("<button") == 1
    assert '<html lang="en">' in body


@pytest.mark.parametrize("agent", ["", "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36"])
async def test_one_click_is_done_at_once_without_redirect_and_as_often_as_it_comes(house: House, agent: str) -> None:
    for count in (1, 2):
        response, body = await house.post(f"/u/{UNSUBSCRIBE}", ONE_CLICK, FORM | {"User-Agent": agent})
        assert (response.status, body) == (200, "You are unsubscribed.\n")
        assert "Set-Cookie" not in response.headers
        assert len(house.news) == count, "answered before it was committed"
    assert {(heard.subject, heard.kind, heard.detail["how"]) for heard in house.news} == {
        (SUBJECT, EventKind.UNSUBSCRIBED, "one-click")
    }


async def test_one_click_works_as_multipart_too(house: House) -> None:
    form = aiohttp.FormData(default_to_multipart=True)
    form.add_field("List-Unsubscribe", "One-Click")
    response, _ = await house.post(f"/u/{UNSUBSCRIBE}", form)
    assert response.status == 200
    assert [heard.kind for heard in house.news] == [EventKind.UNSUBSCRIBED]


async def test_the_pages_own_button_unsubscribes_and_says_so(house: House) -> None:
    _, page = await house.get(f"/u/{UNSUBSCRIBE}")
    name, value = re.findall(r'<input type="hidden" name="(\w+)" value="(\w+)">', page)[0]
    response, body = await house.post(f"/u/{UNSUBSCRIBE}", f"{name}={value}", FORM)
    assert response.status == 200
    assert "You are unsubscribed" in body
    assert house.news[0].detail["how"] == "page"


@pytest.mark.parametrize("body", ["", "List-Unsubscribe=No", "a=b", "\x00\x01", "&".join(f"f{n}=1" for n in range(50))])
async def test_a_post_without_a_wish_changes_nothing(house: House, body: str) -> None:
    response, page = await house.post(f"/u/{UNSUBSCRIBE}", body.encode(), FORM)
    assert response.status == 400
    assert "Nothing was changed" in page
    assert house.news == []


async def test_a_forged_token_unsubscribes_nobody(house: House) -> None:
    for token in (OPEN, CLICK, UNSUBSCRIBE[:-2], "x"):
        assert (await house.post(f"/u/{token}", ONE_CLICK, FORM))[0].status == 404
    assert house.news == []


async def test_an_endless_body_is_refused(house: House) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b"a" * 1000

    assert (await house.post(f"/u/{UNSUBSCRIBE}", b"a" * 20_000, FORM))[0].status == 413
    assert (await house.post(f"/u/{UNSUBSCRIBE}", endless(), FORM))[0].status == 413
    assert house.news == []


async def test_a_body_that_never_comes_is_not_waited_for(house: House) -> None:
    host, port = house.url.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    writer.write(f"POST /u/{UNSUBSCRIBE} HTTP/1.1\r\nHost: x\r\nContent-Length: 26\r\n\r\nList-".encode())
    assert b" 408 " in await reader.readline()
    writer.close()
    assert house.news == []


async def test_an_unsubscribe_that_cannot_be_committed_is_not_called_done_and_not_forgotten(house: House) -> None:
    house.failures = 1
    response, _ = await house.post(f"/u/{UNSUBSCRIBE}", ONE_CLICK, FORM)
    assert response.status == 503
    assert [heard.kind for heard in await house.heard(1)] == [EventKind.UNSUBSCRIBED]


# ── Batches ──


async def test_a_burst_costs_few_batches_and_loses_nothing(house: House) -> None:
    await asyncio.gather(*(house.get(f"/c/{CLICK}/{n % 2}") for n in range(450)))
    assert len(await house.heard(450)) == 450
    assert len(house.batches) < 45
    assert max(map(len, house.batches)) <= 200


async def test_what_waits_is_handed_on_when_the_door_closes(house: House) -> None:
    await house.get(f"/o/{OPEN}.gif")
    await house.door.close()
    assert len(house.news) == 1
