"""People and late bounces on real sockets: a web server of the sender's, its SMTP door, and a clock that the test moves."""

from __future__ import annotations

import asyncio
import email
import email.policy
import smtplib
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiosmtpd.controller import Controller

from posthouse.clock import JumpingClock
from posthouse.sandbox import People, Record, RecordKind, Sandbox, ZoneRecord, publish
from posthouse.sandbox.moments import as_datetime

RunSandbox = Callable[..., Sandbox]


class Door:
    """The sender's SMTP door: keeps what comes in; refuses the first `busy` messages for a while."""

    def __init__(self, busy: int = 0) -> None:
        self.busy = busy
        self.mail: list[tuple[str, str, EmailMessage]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        if self.busy:
            self.busy -= 1
            return "451 4.3.2 Not now"
        message = email.message_from_bytes(envelope.content, policy=email.policy.default)
        assert isinstance(message, EmailMessage)
        self.mail.append((envelope.mail_from, envelope.rcpt_tos[0], message))
        return "250 2.0.0 OK"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def door(port: int, busy: int = 0) -> AsyncIterator[Door]:
    handler = Door(busy)
    controller = Controller(handler, hostname="127.0.0.1", port=port)
    await asyncio.to_thread(controller.start)
    yield handler
    await asyncio.to_thread(controller.stop)


@asynccontextmanager
async def web_site(
    port: int, sandbox: Sandbox, *, tls: bool
) -> AsyncIterator[list[tuple[str, str, str, str, dict[str, str]]]]:
    """The sender's public host: every request as (method, host, path, body, headers)."""
    seen: list[tuple[str, str, str, str, dict[str, str]]] = []

    async def handle(request: web.Request) -> web.Response:
        body = (await request.read()).decode()
        seen.append((request.method, request.host, request.path, body, dict(request.headers)))
        if request.path.startswith("/c/"):
            raise web.HTTPFound("https://elsewhere.example/landing")
        return web.Response(body=b"GIF89a")

    app = web.Application()
    app.router.add_route("*", "/{rest:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    context = None
    if tls:
        assert sandbox.ready.public_certificate
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(sandbox.ready.public_certificate, sandbox.ready.public_key)
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=context).start()
    yield seen
    await runner.cleanup()


def newsletter(number: int, scheme: str, *, one_click: bool = True) -> bytes:
    message = EmailMessage()
    message["From"] = "News <news@news.example>"
    message["To"] = f"r{number}@a.example"
    message["Subject"] = "Grüße aus dem Postamt"
    message["Message-ID"] = f"<m{number}@news.example>"
    message["CFBL-Address"] = "fbl@bounces.news.example; report=arf"
    message["List-Unsubscribe"] = f"<mailto:leave@news.example>, <{scheme}://links.news.example/u/{number}>"
    if one_click:
        message["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
    message.set_content("Read this with a browser.")
    links = f'<a class="b" href="{scheme}://links.news.example/c/{number}?a=1&amp;b=2">Read</a>' * 4
    leave = f'<a href="{scheme}://links.news.example/u/{number}">Leave</a> <a href="https://elsewhere.example/">x</a>'
    pixel = f"<img src='{scheme}://links.news.example/o/{number}.gif' width=1>"
    message.add_alternative(
        f'<p>ä {"x" * 200}</p><img alt="" src="https://images.example/logo.png">{links}{leave}{pixel}',
        "html",
        cte="quoted-printable",
    )
    return message.as_bytes(policy=email.policy.SMTP)


def deliver(sandbox: Sandbox, provider: str, messages: dict[int, bytes]) -> None:
    with smtplib.SMTP(sandbox.ready.addresses[provider][0], sandbox.ready.smtp_port, "client.example") as client:
        for number, content in messages.items():
            client.sendmail(f"b{number}@bounces.news.example", f"r{number}@a.example", content)


async def let_pass(sandbox: Sandbox, clock: JumpingClock, copies: int, *, at_once: bool = True) -> None:
    """Jump to the last due moment, or from one to the next, until nothing is left to happen."""
    for _ in range(600):
        status = await asyncio.to_thread(sandbox.status)
        if status.accepted.get("dot", 0) >= copies and not status.pending:
            return
        due = status.last_due if at_once else status.next_due
        if due is not None and not status.in_flight:
            clock.jump_to(as_datetime(due))
        await asyncio.sleep(0.05)
    raise AssertionError(f"It never grew quiet: {status}")


def zones(sandbox: Sandbox) -> None:
    publish(sandbox.ready.record_file.parent, [ZoneRecord("links.news.example", "A", "127.0.0.1")])


def acts(sandbox: Sandbox, kind: RecordKind) -> list[Record]:
    return [record for record in sandbox.records() if record.kind is kind]


@pytest.mark.parametrize("scheme", ["https", "http"])
async def test_everybody_opens_clicks_complains_and_leaves(
    run_sandbox: RunSandbox, tmp_path: Path, scheme: str
) -> None:
    clock = JumpingClock(tmp_path / "clock")
    web_port, door_port = free_port(), free_port()
    sandbox = run_sandbox(
        clock_file=tmp_path / "clock",
        public_address=f"127.0.0.1:{web_port}",
        public_hosts=("links.news.example",),
        bounce_mx=f"127.0.0.1:{door_port}",
        people=People(opens=1.0, clicks=1.0, complains=1.0, unsubscribes=1.0),
    )
    zones(sandbox)
    await asyncio.sleep(0.1)
    began = clock.now()
    async with web_site(web_port, sandbox, tls=scheme == "https") as seen, door(door_port, busy=1) as postbox:
        await asyncio.to_thread(deliver, sandbox, "plain", {n: newsletter(n, scheme) for n in range(6)})
        await let_pass(sandbox, clock, 6, at_once=False)
    await asyncio.to_thread(sandbox.stop)

    assert sorted(path for method, _, path, _, _ in seen if method == "GET" and path.startswith("/o/")) == [
        f"/o/{n}.gif" for n in range(6)
    ]
    assert sorted(path for _, _, path, _, _ in seen if path.startswith("/c/")) == [f"/c/{n}" for n in range(6)]
    posts = [(path, body, headers) for method, _, path, body, headers in seen if method == "POST"]
    # RFC 8058 §3.1 has it that, with the https URI asked for; a list of http only has no one-click.
    assert sorted(path for path, _, _ in posts) == ([f"/u/{n}" for n in range(6)] if scheme == "https" else [])
    for _, body, headers in posts:
        assert "Cookie" not in headers
        assert "Referer" not in headers
        if headers["Content-Type"] == "application/x-www-form-urlencoded":
            assert body == "List-Unsubscribe=One-Click"
        else:
            assert headers["Content-Type"].startswith("multipart/form-data")
            assert 'name="List-Unsubscribe"' in body
            assert "One-Click" in body
    assert len({headers["Content-Type"][:15] for _, _, headers in posts}) == (2 if posts else 0)
    assert {host for _, host, _, _, _ in seen} == {"links.news.example"}

    assert len(postbox.mail) == 6
    for sender, to, report in postbox.mail:
        assert (sender, to) == ("feedback@plain-mail.test", "fbl@bounces.news.example")
        assert report.get_content_type() == "multipart/report"
        assert report.get_param("report-type") == "feedback-report"
        _, machine, original = report.iter_parts()
        assert machine.get_content_type() == "message/feedback-report"
        assert "Feedback-Type: abuse" in machine.as_string()
        assert "Original-Mail-From: <b" in machine.as_string()
        assert "Message-ID: <m" in original.as_string()

    complaints = acts(sandbox, RecordKind.COMPLAINED)
    assert sorted(record.code for record in complaints) == [250] * 6 + [451]
    for kind in (RecordKind.OPENED, RecordKind.CLICKED):
        assert sorted(r.message_id for r in acts(sandbox, kind) if r.accepted) == [
            f"<m{n}@news.example>" for n in range(6)
        ]
    assert {record.code for record in acts(sandbox, RecordKind.CLICKED)} == {302}
    first = acts(sandbox, RecordKind.OPENED)[0]
    assert timedelta(minutes=2) <= as_datetime(first.t) - began <= timedelta(hours=4)
    opened = {record.rcpt: record.t for record in acts(sandbox, RecordKind.OPENED)}
    assert all(record.t > opened[record.rcpt] for record in acts(sandbox, RecordKind.CLICKED))


async def test_the_same_people_act_in_every_run_and_never_twice_for_one_message(
    run_sandbox: RunSandbox, tmp_path: Path
) -> None:
    web_port = free_port()
    runs = []
    for run, scheme in enumerate(("https", "https")):
        clock = JumpingClock(tmp_path / f"clock{run}")
        sandbox = run_sandbox(
            directory=tmp_path / f"run{run}",
            clock_file=tmp_path / f"clock{run}",
            public_address=f"127.0.0.1:{web_port}",
            public_hosts=("links.news.example",),
            people=People(opens=0.4, clicks=0.2, unsubscribes=0.1, complains=1.0),
        )
        zones(sandbox)
        await asyncio.sleep(0.1)
        letters = {n: newsletter(n, scheme) for n in range(60)}
        async with web_site(web_port, sandbox, tls=True) as seen:
            for _ in range(2):
                await asyncio.to_thread(deliver, sandbox, "plain", letters)
            await let_pass(sandbox, clock, 120)
        runs.append(sorted(path for _, _, path, _, _ in seen))
        await asyncio.to_thread(sandbox.stop)
        assert not acts(sandbox, RecordKind.COMPLAINED), "without a door nobody can complain"
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(runs[0])
    opens, clicks = (sum(path.startswith(way) for path in runs[0]) for way in ("/o/", "/c/"))
    assert 12 <= opens <= 36
    assert 4 <= clicks < opens


async def test_a_page_that_fails_is_tried_again(
    run_sandbox: RunSandbox, tmp_path: Path, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    clock = JumpingClock(tmp_path / "clock")
    web_port = free_port()
    sandbox = run_sandbox(
        clock_file=tmp_path / "clock", public_address=f"127.0.0.1:{web_port}", people=People(opens=1.0)
    )
    zones(sandbox)
    await asyncio.sleep(0.1)
    await asyncio.to_thread(deliver, sandbox, "plain", {0: newsletter(0, "http")})

    def page_has_failed() -> bool:
        status = sandbox.status()
        clock.jump_to(as_datetime(status.next_due or 0))
        return bool(status.refused.get("opened"))

    await asyncio.to_thread(eventually, page_has_failed)
    assert not sandbox.status().is_quiet(1, 2**62)
    async with web_site(web_port, sandbox, tls=False):
        await let_pass(sandbox, clock, 1)
    await asyncio.to_thread(sandbox.stop)
    codes = [record.code for record in acts(sandbox, RecordKind.OPENED)]
    assert codes[0] == 0
    assert codes[-1] == 200
    assert "ClientConnectorError" in acts(sandbox, RecordKind.OPENED)[0].text


async def test_late_bouncer_returns_by_dsn_what_it_accepted(
    run_sandbox: RunSandbox, tmp_path: Path, providers: Callable[[str], Path]
) -> None:
    clock = JumpingClock(tmp_path / "clock")
    port = free_port()
    late = "[late_bounce]\nshare = 0.3\nleast_seconds = 120\nmost_seconds = 1800\n"
    sandbox = run_sandbox(
        clock_file=tmp_path / "clock",
        bounce_mx=f"127.0.0.1:{port}",
        providers=providers(f'{late}[late_bounce.reply]\ncode = 550\nstatus = "5.1.1"\ntext = "<{{rcpt}}>... gone"'),
    )
    began = clock.now()
    async with door(port) as postbox:
        await asyncio.to_thread(deliver, sandbox, "only", {n: newsletter(n, "https") for n in range(40)})
        with smtplib.SMTP(sandbox.ready.addresses["only"][0], sandbox.ready.smtp_port) as client:
            for number in range(40):
                client.sendmail("", f"r{number}@a.example", b"Subject: a DSN is never answered\r\n\r\n")
        await let_pass(sandbox, clock, 80)
    await asyncio.to_thread(sandbox.stop)
    returned = acts(sandbox, RecordKind.DSN)
    assert 4 <= len(returned) <= 22
    assert {record.return_path for record in returned} == {to for _, to, _ in postbox.mail}
    assert all(timedelta(0) < as_datetime(record.t) - began < timedelta(minutes=31) for record in returned)
    dsn: Any
    for return_path, to, dsn in postbox.mail:
        which = to[1:].partition("@")[0]
        assert return_path == "<>"
        assert dsn["Auto-Submitted"] == "auto-replied"
        assert dsn.get_param("report-type") == "delivery-status"
        _, machine, original = dsn.iter_parts()
        about_message, about_recipient = machine.get_payload()
        assert about_message["Reporting-MTA"] == "dns; mx1.only.test"
        assert about_recipient["Final-Recipient"] == f"rfc822; r{which}@a.example"
        assert about_recipient["Action"] == "failed"
        assert about_recipient["Status"] == "5.1.1"
        assert about_recipient["Diagnostic-Code"] == f"smtp; 550 5.1.1 <r{which}@a.example>... gone"
        assert f"Message-ID: <m{which}@news.example>" in original.as_string()
