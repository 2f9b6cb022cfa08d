"""The front: the web door, the SMTP door, and the loops of launch and tell, in one process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence

import structlog
import uvicorn

from posthouse import audience, campaigns, queue, reputation
from posthouse.app import App
from posthouse.db.pool import DATABASE_TROUBLE
from posthouse.doors.public import PublicDoor
from posthouse.doors.smtpd import Admission, InboundDoor, Limits
from posthouse.feedback import Heard, NotHeard, hear_mail
from posthouse.flows.launch import launch
from posthouse.flows.listen import listen
from posthouse.flows.settle import open_journal, replay
from posthouse.flows.tell import tell
from posthouse.model.errors import DataDirectoryWrong, SettingWrong

_log = structlog.get_logger()
_IDLE_SECONDS = 0.25
_RETRY_SECONDS = 1.0
_TIDY_SECONDS = 300.0
_BACKLOG = 2048
_ROLES = frozenset({"complaints", "abuse", "postmaster"})


async def run_front(app: App, senders: int, stop: asyncio.Event, ready: Callable[[], None]) -> None:
    """Open the doors, run the loops until `stop` is set, then close the doors. Calls `ready` when the doors are open."""
    await _replay_orphans(app, senders)
    async with _web_door(app), _smtp_door(app):
        loops = [
            asyncio.create_task(_repeat("launch", stop, lambda: launch(app))),
            asyncio.create_task(_repeat("tell", stop, lambda: tell(app))),
            asyncio.create_task(_tidy(app, stop)),
        ]
        ready()
        await stop.wait()
        await asyncio.gather(*loops)


async def _replay_orphans(app: App, senders: int) -> None:
    """Settle the journals of senders that this host used to have and has no more."""
    for slot, _ in app.directory.journals():
        if slot >= senders:
            with contextlib.suppress(DataDirectoryWrong):  # another process replays it at this moment
                journal = await open_journal(app, slot)
                try:
                    await replay(app, journal, slot)
                finally:
                    journal.close()


async def _repeat(name: str, stop: asyncio.Event, step: Callable[[], Awaitable[bool]]) -> None:
    """Run a flow's step again and again: at once while it finds work, after a moment when it finds none."""
    while not stop.is_set():
        pause = _IDLE_SECONDS
        try:
            if await step():
                pause = 0.0
        except DATABASE_TROUBLE as error:
            _log.warning("a loop waits for the database", loop=name, error=str(error))
            pause = _RETRY_SECONDS
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), pause)


async def _tidy(app: App, stop: asyncio.Event) -> None:
    """Every few minutes: drop what is empty."""
    while not stop.is_set():
        with contextlib.suppress(*DATABASE_TROUBLE):
            await queue.drop_empty_ranges(app.db)
            await reputation.forget_refusals(app.db, app.clock.now())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), _TIDY_SECONDS)


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handlers: this process has its own."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@contextlib.asynccontextmanager
async def _web_door(app: App) -> AsyncIterator[None]:
    public = app.settings.public
    door = PublicDoor(
        app.tokens,
        app.clock,
        lambda heard: listen(app, heard),
        lambda workspace_id, campaign_id, index: campaigns.link_target(app.db, workspace_id, campaign_id, index),
        lambda workspace_id, list_id: audience.list_name(app.db, workspace_id, list_id),
        lambda workspace_id, contact_id: audience.contact_address(app.db, workspace_id, contact_id),
    )
    listening = _listening(public.listen)
    server = _QuietServer(
        uvicorn.Config(
            door,
            log_config=None,
            access_log=False,
            lifespan="off",
            server_header=False,
            timeout_keep_alive=10,
            timeout_graceful_shutdown=10,
            limit_concurrency=1000,
            h11_max_incomplete_event_size=16 * 1024,
            ssl_certfile=public.tls_certificate or None,
            ssl_keyfile=public.tls_key or None,
        )
    )
    task = asyncio.create_task(_serve(server, listening))
    while not server.started and not task.done():  # noqa: ASYNC110 -- uvicorn has no event for it
        await asyncio.sleep(0.01)
    if task.done():
        task.result()
    try:
        yield
    finally:
        server.should_exit = True
        await task
        await door.close()


def _listening(address: str) -> socket.socket:
    """Opened here and not by uvicorn, which would log its own words and leave the process."""
    host, port = _host_and_port(address)
    try:
        return socket.create_server(
            (host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET, backlog=_BACKLOG
        )
    except OSError as error:
        raise SettingWrong(
            f"public.listen = {address!r}: the web door cannot open there ({error.strerror}); is the port in use?"
        ) from error


async def _serve(server: uvicorn.Server, listening: socket.socket) -> None:
    try:
        await server.serve([listening])
    except (OSError, ssl.SSLError) as error:
        raise SettingWrong(f"public.tls_certificate or public.tls_key cannot be used: {error}.") from error


@contextlib.asynccontextmanager
async def _smtp_door(app: App) -> AsyncIterator[None]:
    settings = app.settings.inbound

    async def admit(recipient: str) -> Admission:
        return _admission(app, recipient)

    async def take(return_path: str, recipients: list[str], raw: bytes) -> None:
        await _take(app, recipients, raw)

    door = InboundDoor(app.mail_host, admit, take, Limits(max_bytes=settings.max_megabytes * 2**20))
    host, port = _host_and_port(settings.listen)
    try:
        await door.start(host, port)
    except OSError as error:
        raise SettingWrong(
            f"inbound.listen = {settings.listen!r}: the SMTP door cannot open there ({error.strerror}); is the port in use?"
        ) from error
    try:
        yield
    finally:
        await door.stop()


def _admission(app: App, recipient: str) -> Admission:
    """Mail to return paths, complaint addresses and role addresses below the bounce subdomain is ours (BNC-8)."""
    local, _, domain = recipient.lower().rpartition("@")
    if not domain.startswith(f"{app.settings.sender.bounce_subdomain}."):
        return Admission.NOT_OURS
    return Admission.TAKEN if local.startswith("b-") or local in _ROLES else Admission.UNKNOWN


async def _take(app: App, recipients: Sequence[str], raw: bytes) -> None:
    heard: list[Heard] = []
    for recipient in recipients:
        found = hear_mail(raw, recipient, app.tokens, app.rules, app.clock.now_us())
        if isinstance(found, NotHeard):
            _log.info("mail came in that changes nothing", reason=found.reason.value)
        else:
            heard.append(found)
    await listen(app, heard)


def _host_and_port(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)
