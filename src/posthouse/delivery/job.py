"""One copy on its way through the exchange, and what the other side answered."""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct

from posthouse.delivery.limits import SiteLimits
from posthouse.delivery.route import Route
from posthouse.delivery.sources import DEFAULT_SOURCE, Source
from posthouse.mail.replies import Failure, Stage
from posthouse.model.messages import Composed, Copy
from posthouse.model.outcomes import Reply, Verdict


class Answer(Struct, frozen=True):
    """How an attempt ended: a reply, or a failure without one; at which stage, and at which host.

    verdict: what it means, where it is not SMTP and was judged by rules of its own; remote_id: the name that the other side gave the
    message, where it gave one apart from the words of its reply.
    """

    stage: Stage
    remote: str
    reply: Reply | None = None
    failure: Failure | None = None
    verdict: Verdict | None = None
    remote_id: str | None = None


class Job:
    """A copy that waits for a connection. `compose` is called when a session takes it, so bytes exist only while they leave."""

    __slots__ = ("compose", "composed", "copy", "give_up", "limits", "returns", "route", "source")

    def __init__(
        self,
        copy: Copy,
        route: Route,
        compose: Callable[[Copy], Composed | None],
        give_up: float = float("inf"),
    ) -> None:
        """compose: makes the bytes, or returns None after it has settled the copy otherwise (a field is missing, say).

        give_up: on the monotonic clock, when the claim lapses and another sender may take the copy: by then it is answered or let go.
        """
        self.copy = copy
        self.route = route
        self.compose = compose
        self.composed: Composed | None = None
        self.give_up = give_up
        self.returns = 0
        # Where it leaves from, and what may be brought there; chosen when it is offered.
        self.source: Source = DEFAULT_SOURCE
        self.limits = SiteLimits()
