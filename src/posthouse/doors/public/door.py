"""The public door: routes a request by its path, turns its token into news, and answers."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from posthouse.doors.public import answers
from posthouse.doors.public.batches import Batches, Listen, NotRecorded
from posthouse.doors.public.request import (
    MAX_PATH,
    MAX_QUERY,
    BodyTooLarge,
    BodyTooSlow,
    Receive,
    Scope,
    Send,
    header,
    posted_form,
    query,
)
from posthouse.feedback import (
    Heard,
    NotHeard,
    Visit,
    Visitors,
    hear_click,
    hear_open,
    hear_personal_click,
    hear_unsubscribe,
    unsubscriber,
)
from posthouse.mail.tokens import Tokens
from posthouse.model.ports import Clock

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_INDEX = re.compile(r"[0-9]{1,5}\Z")
_READS = ("GET", "HEAD")

LinkTarget = Callable[[int, int, int], Awaitable[str | None]]
NameOf = Callable[[int, int], Awaitable[str | None]]


class PublicDoor:
    """The ASGI application behind the links of our messages."""

    def __init__(
        self,
        tokens: Tokens,
        clock: Clock,
        listen: Listen,
        link_target: LinkTarget,
        list_name: NameOf,
        contact_address: NameOf,
        body_seconds: float = 10.0,
    ) -> None:
        """listen: commits news, and may be given the same news twice; link_target: (workspace, campaign, index) → the campaign's own
        table entry; list_name: (workspace, list) → the name for people; contact_address: (workspace, contact) → the address;
        body_seconds: how long a posted form may take to come.
        """
        self._tokens = tokens
        self._clock = clock
        self._batches = Batches(listen)
        self._link_target = link_target
        self._list_name = list_name
        self._contact_address = contact_address
        self._body_seconds = body_seconds
        self._visitors = Visitors.load()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's start and stop."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, send)
        else:
            await send({"type": "websocket.close"})

    async def close(self) -> None:
        """Hand over the news that still waits."""
        await self._batches.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        if len(path) > MAX_PATH or len(scope["query_string"]) > MAX_QUERY:
            await answers.notice(
                send, 414, "This address is too long", "Please use the link as it stands in the message."
            )
            return
        method: str = scope["method"]
        match path.split("/"):
            case ["", "u", token] if method == "POST":
                await self._unsubscribe(token, scope, receive, send)
            case ["", "o" | "c" | "r" | "u", *_] if method not in _READS:
                allow = b"GET, HEAD, POST" if path.startswith("/u/") else b"GET, HEAD"
                await answers.notice(
                    send,
                    405,
                    "This does not work here",
                    "Please open the link in a browser.",
                    more=((b"allow", allow),),
                )
            case ["", "o", name] if name.endswith(".gif"):
                await self._open(name.removesuffix(".gif"), scope, send)
            case ["", "c", token, index] if _INDEX.match(index):
                await self._click(token, int(index), scope, send)
            case ["", "r", token]:
                await self._personal_click(token, scope, send)
            case ["", "u", token]:
                await self._ask(token, scope, send)
            case ["", "healthz"]:
                await answers.text(send, 200, "ok\n")
            case _:
                await _not_found(scope, send)

    async def _open(self, token: str, scope: Scope, send: Send) -> None:
        heard = hear_open(token, self._visit(scope), self._tokens, self._visitors)
        if isinstance(heard, NotHeard):
            await _not_found(scope, send)
            return
        self._batches.add(heard)
        await answers.pixel(send, with_body=scope["method"] == "GET")

    async def _click(self, token: str, index: int, scope: Scope, send: Send) -> None:
        heard = hear_click(token, index, self._visit(scope), self._tokens, self._visitors)
        target = None
        if isinstance(heard, Heard):
            target = await self._link_target(heard.subject.workspace_id, heard.subject.campaign_id, index)
        await self._follow(heard, target, scope, send)

    async def _personal_click(self, token: str, scope: Scope, send: Send) -> None:
        fields = query(scope)
        target = fields.get("to", "")
        heard = hear_personal_click(
            token, target, fields.get("s", ""), self._visit(scope), self._tokens, self._visitors
        )
        await self._follow(heard, target, scope, send)

    async def _follow(self, heard: Heard | NotHeard, target: str | None, scope: Scope, send: Send) -> None:
        """To the target, if the link is ours and leads to the web."""
        if isinstance(heard, NotHeard) or target is None or not target.lower().startswith(("https://", "http://")):
            await _not_found(scope, send)
            return
        self._batches.add(heard)
        await answers.redirect(send, target)

    async def _ask(self, token: str, scope: Scope, send: Send) -> None:
        """The page with one button; looking at it changes nothing (UNS-4)."""
        subject = unsubscriber(token, self._tokens)
        if subject is None:
            await _not_found(scope, send)
            return
        list_name = await self._list_name(subject.workspace_id, subject.list_id) or "this list"
        address = await self._contact_address(subject.workspace_id, subject.contact_id) or "your address"
        await answers.page(send, 200, "unsubscribe", scope["method"] == "GET", list=list_name, address=address)

    async def _unsubscribe(self, token: str, scope: Scope, receive: Receive, send: Send) -> None:
        """RFC 8058 one-click, or the page's own button. Answered only after it is committed; twice is as good as once (UNS-3)."""
        subject = unsubscriber(token, self._tokens)
        if subject is None:
            await _not_found(scope, send)
            return
        try:
            form = await posted_form(scope, receive, self._body_seconds)
        except BodyTooLarge:
            await answers.text(send, 413, "The request is too large.\n")
            return
        except BodyTooSlow:
            await answers.text(send, 408, "The request came too slowly.\n")
            return
        by_button = form.get("confirm") == "yes"
        if not by_button and form.get("List-Unsubscribe", "").lower() != "one-click":
            await answers.notice(
                send, 400, "Nothing was changed", "Please use the button on the page, or your mail program's own."
            )
            return
        heard = hear_unsubscribe(token, "page" if by_button else "one-click", self._visit(scope), self._tokens)
        assert isinstance(heard, Heard)
        try:
            await self._batches.add_and_wait(heard)
        except NotRecorded:
            await answers.notice(
                send, 503, "Please try again", "We could not note your wish just now. Please try again in a minute."
            )
            return
        if not by_button:
            await answers.text(send, 200, "You are unsubscribed.\n")
            return
        list_name = await self._list_name(subject.workspace_id, subject.list_id) or "this list"
        address = await self._contact_address(subject.workspace_id, subject.contact_id) or "your address"
        await answers.page(send, 200, "unsubscribed", list=list_name, address=address)

    def _visit(self, scope: Scope) -> Visit:
        client = scope.get("client")
        at = (self._clock.now() - _EPOCH) // _MICROSECOND
        return Visit(header(scope, b"user-agent"), client[0] if client else "", at, scope["method"] == "HEAD")


async def _not_found(scope: Scope, send: Send) -> None:
    words = "This link is not one of ours, or a part of it is missing. Please use it as it stands in the message."
    await answers.notice(send, 404, "This link does not work", words, with_body=scope["method"] != "HEAD")
