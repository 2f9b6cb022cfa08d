"""A relay over HTTP: hands over one message and says what became of it, knows its account's limits, opens lines."""

from __future__ import annotations

import time

from posthouse.delivery.job import Answer
from posthouse.delivery.relays.api import Api, ApiFailure, ApiTimes
from posthouse.delivery.relays.dialect import CannotCarry, Dialect, refusal_of
from posthouse.delivery.relays.mailgun import MailgunDialect
from posthouse.delivery.relays.quota import Allowance, Quota
from posthouse.delivery.relays.rules import RelayRules
from posthouse.delivery.relays.sendgrid import SendgridDialect
from posthouse.delivery.relays.ses import SesDialect
from posthouse.delivery.relays.settings import MailgunSettings, SendgridSettings, SesSettings
from posthouse.mail.replies import Failure, Stage
from posthouse.model.messages import Composed
from posthouse.model.outcomes import BounceClass, Reaction, Reply, Scope, Verdict
from posthouse.model.ports import Clock

_QUOTA_SECONDS = 60.0


class RelayClient:
    """One source of a relay kind in one sender process; all its lines share the connections and the allowance."""

    def __init__(self, api: Api, dialect: Dialect, rules: RelayRules, clock: Clock, share: float = 1.0) -> None:
        """share: this process's part of what the account may send, in (0, 1]."""
        self.remote = api.remote
        self.allowance = Allowance(share)
        # What the account said last; None where the relay tells nothing, or will not tell it to this key.
        self.quota: Quota | None = None
        self._api = api
        self._dialect = dialect
        self._rules = rules
        self._clock = clock
        self._asked_at: float | None = None

    async def close(self) -> None:
        """Drop all connections."""
        await self._api.close()

    async def hand_over(self, message: Composed, seconds: float | None = None) -> Answer:
        """Offer one message. seconds: the answer must be here by then. Delivered means: the relay took it and gave it a name."""
        if message.smtputf8:
            return Answer(Stage.MAIL, self.remote, failure=Failure.SMTPUTF8_MISSING)
        if len(message.content) > self._dialect.largest:
            return Answer(Stage.MAIL, self.remote, failure=Failure.TOO_BIG)
        now = self._clock.now()
        request = self._dialect.send_request(message, now)
        if isinstance(request, CannotCarry):
            return self._not_carried(request)
        reply = await self._api.ask(request.method, request.path, request.headers, request.body, seconds)
        if isinstance(reply, ApiFailure):
            return self._failed(reply)
        receipt = self._dialect.receipt(reply)
        if receipt is not None:
            return Answer(Stage.CONTENT, self.remote, Reply(reply.status, None, receipt), remote_id=receipt or None)
        error = refusal_of(self._dialect, reply, now)
        verdict = self._rules.interpret(self._dialect.kind, error, now)
        text = ": ".join(filter(None, (error.error, error.text)))
        return Answer(Stage.CONTENT, self.remote, Reply(reply.status, None, text), verdict=verdict)

    async def learn_quota(self) -> Answer | None:
        """Ask for the account's limits and keep to them; None, or how the relay could not be reached.

        A key that may send and may not ask is no trouble: then the relay itself says when it is too much.
        """
        self._asked_at = time.monotonic()
        request = self._dialect.quota_request(self._clock.now())
        if request is None:
            return None
        reply = await self._api.ask(request.method, request.path, request.headers, request.body)
        if isinstance(reply, ApiFailure):
            return self._failed(reply)
        quota = self._dialect.quota(reply)
        if quota is not None:
            self.quota = quota
            self.allowance.learn(quota, time.monotonic())
        elif reply.status >= 500:
            error = refusal_of(self._dialect, reply, self._clock.now())
            verdict = self._rules.interpret(self._dialect.kind, error, self._clock.now())
            return Answer(Stage.CONNECT, self.remote, Reply(reply.status, None, error.text), verdict=verdict)
        return None

    @property
    def quota_is_old(self) -> bool:
        """Whether the limits should be asked for again."""
        return self._asked_at is None or time.monotonic() - self._asked_at >= _QUOTA_SECONDS

    def lost(self) -> Answer:
        """The answer of a message that was given up while it was under way."""
        return self._failed(ApiFailure(Stage.CONTENT, Failure.CONNECTION_LOST))

    def _failed(self, failed: ApiFailure) -> Answer:
        verdict = self._rules.interpret_failure(self._dialect.kind, failed.failure, self._clock.now())
        return Answer(failed.stage, self.remote, failure=failed.failure, verdict=verdict)

    def _not_carried(self, refused: CannotCarry) -> Answer:
        rule = f"{self._dialect.kind}-cannot-carry"
        verdict = Verdict(True, BounceClass.CONTENT_TYPE, Scope.MESSAGE, Reaction.FAIL, rule)
        text = f"{self._dialect.name} has no form for {refused.what}; send this message another way."
        return Answer(Stage.MAIL, self.remote, Reply(0, None, text), verdict=verdict)


def open_client(
    settings: SesSettings | SendgridSettings | MailgunSettings,
    rules: RelayRules,
    clock: Clock,
    share: float = 1.0,
    times: ApiTimes | None = None,
) -> RelayClient:
    """The client of a source. Call it inside the running loop; nothing is connected yet."""
    dialect: Dialect
    endpoint = settings.endpoint.rstrip("/")
    match settings:
        case SesSettings():
            endpoint = endpoint or f"https://email.{settings.region}.amazonaws.com"
            dialect = SesDialect(settings, endpoint)
        case SendgridSettings():
            dialect = SendgridDialect(settings)
        case MailgunSettings():
            dialect = MailgunDialect(settings)
    api = Api(endpoint, settings.parallel, times or ApiTimes())
    return RelayClient(api, dialect, rules, clock, share)
