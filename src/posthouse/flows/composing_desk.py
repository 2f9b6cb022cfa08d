"""The desk of a sender: claimed copies become jobs for the exchange, or outcomes when they are not to be sent."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial

import msgspec
import structlog

from posthouse import accounts, campaigns, reputation
from posthouse.app import App
from posthouse.composing import CompiledMessage, Composer, Frame, Lacking, Rendered
from posthouse.composing.render_child import ChildUnavailable, RenderChild
from posthouse.db.pool import DATABASE_TROUBLE
from posthouse.delivery import Answer, Job, Route, expired, judge
from posthouse.flows.react import traits
from posthouse.flows.settle import Settler
from posthouse.mail.replies import Failure, Stage
from posthouse.model.errors import SettingWrong
from posthouse.model.messages import Composed, Copy
from posthouse.model.outcomes import Outcome, Status
from posthouse.model.waiting import Ceiling, WaitReason
from posthouse.reputation import BrakeGate, RecentSuppressions, Traits

# What one trip to the render child carries (answers 17).
_RENDERED_AT_ONCE = 64
_SECOND = 1_000_000
# Before what could not be rendered is claimed again.
_BREATH_SECONDS = 1.0
_log = structlog.get_logger()


class Desk:
    """Prepares copies for one sender process."""

    def __init__(self, app: App, settler: Settler, recent: RecentSuppressions) -> None:
        self._app = app
        self._settler = settler
        self._recent = recent
        self._composers: dict[int, tuple[CompiledMessage, Composer]] = {}
        self._stopped: frozenset[int] = frozenset()
        self._gate = BrakeGate(sandbox=app.sandbox)
        self._traits: dict[int, Traits] = {}
        self._renderer: RenderChild | None = None

    def part(self, copies: Sequence[Copy]) -> tuple[list[Copy], list[Copy]]:
        """(those whose way is known, those that somebody must be asked for first)."""
        if self._app.relay is not None:
            return list(copies), []
        now = self._app.clock.now()
        routed: list[Copy] = []
        unrouted: list[Copy] = []
        for copy in copies:
            domain = _domain(copy)
            is_known = self._app.routes.knows(domain, now) and self._app.tls.knows(domain, now)
            (routed if is_known else unrouted).append(copy)
        return routed, unrouted

    async def jobs(self, copies: Sequence[Copy], give_up: float) -> list[Job]:
        """The jobs of those copies that are to be sent; the others are settled here. give_up: when their claim lapses, monotonic."""
        wanted = [copy for copy in copies if not self._withheld(copy)]
        routes = await self._routes(wanted)
        by_campaign: dict[int, list[Job]] = defaultdict(list)
        for copy in wanted:
            route = routes[_domain(copy)]
            if isinstance(route, Failure):
                self._unroutable(copy, route)
            else:
                by_campaign[copy.campaign_id].append(Job(copy, route, self._compose, give_up))
        if self._gate.brakes:
            by_campaign = await self._past_the_brakes(by_campaign)
        jobs: list[Job] = []
        for campaign_id, batch in by_campaign.items():
            compiled, composer = await self._composer(campaign_id)
            jobs += await self._rendered(composer, batch) if compiled.engine else batch
        return jobs

    def ceilings(self, addresses: Mapping[int, str | None]) -> list[Ceiling]:
        """The brakes on ways out, for pacing. addresses: source id → its IP address, None where the system picks it."""
        return reputation.ceilings(self._gate.brakes, addresses)

    async def look_around(self) -> None:
        """Called about once a second: learn which campaigns were stopped since their copies were claimed, and which brakes are on."""
        await self._gate.refresh(self._app.db, self._app.clock.now())
        self._stopped = await campaigns.stopped_campaigns(self._app.db, list(self._composers))
        try:
            if self._app.tls.reload_rules():
                _log.info("the TLS rules were read again")
        except SettingWrong as error:
            _log.warning("the old TLS rules stay in force", reason=str(error))
        await self._app.tls.results.flush(self._app.db)

    async def close(self) -> None:
        """Write what was counted, and stop the render child."""
        try:
            await self._app.tls.results.flush(self._app.db, at_once=True)
        except DATABASE_TROUBLE as error:
            _log.warning("the last results of TLS sessions are lost", reason=str(error))
        if self._renderer is not None:
            await self._renderer.close()

    async def _past_the_brakes(self, by_campaign: dict[int, list[Job]]) -> dict[int, list[Job]]:
        """Those that no brake holds back; the others go back to the queue until the brake lets them."""
        app = self._app
        strangers = [campaign_id for campaign_id in by_campaign if campaign_id not in self._traits]
        if strangers:
            known = await campaigns.traits_of(app.db, strangers)
            self._traits |= {campaign_id: traits(app, found) for campaign_id, found in known.items()}
        jobs = [job for batch in by_campaign.values() for job in batch]
        asked = [(self._traits[job.copy.campaign_id], job.route.site_id) for job in jobs]
        passed: dict[int, list[Job]] = defaultdict(list)
        for job, due in zip(jobs, await self._gate.waits(app.db, asked, app.clock.now()), strict=True):
            if due is None:
                passed[job.copy.campaign_id].append(job)
            else:
                self._settler.put_back([job.copy], WaitReason.BRAKE, due)
        return passed

    def _held_until(self, copy: Copy) -> datetime | None:
        found = self._traits.get(copy.campaign_id)
        if found is None:
            return None
        return self._gate.held_until(found, copy.site_id, self._app.clock.now())

    def _withheld(self, copy: Copy) -> bool:
        now = self._app.clock.now_us()
        if copy.withheld == "cancelled":
            self._settler.note(_not_sent(copy, Status.CANCELLED, "campaign-cancelled", now))
        elif copy.withheld is not None:
            self._settler.note(_not_sent(copy, Status.SUPPRESSED, copy.withheld, now))
        elif now > copy.first_at + self._app.schedule.life * _SECOND:
            self._settler.note(expired(copy, now))
        else:
            return False
        return True

    async def _routes(self, copies: Sequence[Copy]) -> dict[str, Route | Failure]:
        domains = {_domain(copy) for copy in copies}
        if self._app.relay is not None:
            route = await self._app.routes.relay_route(self._app.relay)
            return dict.fromkeys(domains, route)
        now = self._app.clock.now()
        return await self._app.tls.apply(await self._app.routes.find(domains, now), now)

    def _unroutable(self, copy: Copy, failure: Failure) -> None:
        answer = Answer(Stage.CONNECT, _domain(copy), failure=failure)
        app = self._app
        outcome, _ = judge(copy, answer, app.rules, app.schedule, app.clock.now_us(), app.chance)
        self._settler.note(outcome)

    def _withdrawn(self, copy: Copy) -> bool:
        """The last look before MAIL: a copy that is not to be sent after all is settled or given back here."""
        cause = self._recent.cause(copy.workspace_id, copy.email, copy.list_id)
        if cause is not None:
            self._settler.note(_not_sent(copy, Status.SUPPRESSED, cause, self._app.clock.now_us()))
        elif copy.campaign_id in self._stopped:
            # The claim knows what a stopped campaign's copies come to.
            self._settler.put_back([copy], "campaign-stopped")
        elif self._gate.brakes and (due := self._held_until(copy)) is not None:
            self._settler.put_back([copy], WaitReason.BRAKE, due)
        else:
            return False
        return True

    def _compose(self, copy: Copy, rendered: Rendered | None = None) -> Composed | None:
        """Called by the exchange at the last moment; None for a copy that is not to be sent after all."""
        if self._withdrawn(copy):
            return None
        _, composer = self._composers[copy.campaign_id]
        made = composer.compose(copy, self._app.clock.now(), rendered)
        if isinstance(made, Lacking):
            self._hold(copy, f"missing-field: {', '.join(made.fields)}")
            return None
        return made

    async def _rendered(self, composer: Composer, jobs: Sequence[Job]) -> list[Job]:
        """Render a template with logic now, in batches; what comes of it is composed and signed at the last moment like any other."""
        renderer = await self._render_child()
        ready: list[Job] = []
        for start in range(0, len(jobs), _RENDERED_AT_ONCE):
            batch = jobs[start : start + _RENDERED_AT_ONCE]
            try:
                made = await composer.render_many([job.copy for job in batch], renderer)
            except ChildUnavailable as error:
                # A machine that cannot start a process now is no recipient's fault.
                _log.warning("messages go back to the queue", reason=str(error), messages=len(jobs) - start)
                self._settler.put_back([job.copy for job in jobs[start:]], "render-child-unavailable")
                await asyncio.sleep(_BREATH_SECONDS)
                break
            for job, rendered in zip(batch, made, strict=True):
                if isinstance(rendered, Rendered):
                    job.compose = partial(self._compose, rendered=rendered)
                    ready.append(job)
                elif isinstance(rendered, Lacking):
                    self._hold(job.copy, f"missing-field: {', '.join(rendered.fields)}")
                else:
                    self._hold(job.copy, f"template: {rendered.reason}")
        return ready

    def _hold(self, copy: Copy, reason: str) -> None:
        self._settler.note(_not_sent(copy, Status.HELD, reason, self._app.clock.now_us()))

    async def _composer(self, campaign_id: int) -> tuple[CompiledMessage, Composer]:
        known = self._composers.get(campaign_id)
        if known is None:
            app = self._app
            workspace_id, from_address, stored, frame = await campaigns.load_compiled(app.db, campaign_id)
            compiled = CompiledMessage.from_bytes(stored)
            domain = from_address.rpartition("@")[2]
            signers = await accounts.signers_of(
                app.db, workspace_id, domain, app.key, ed25519=app.settings.sender.ed25519
            )
            composer = Composer(compiled, msgspec.convert(frame, Frame), signers, app.tokens)
            known = self._composers[campaign_id] = (compiled, composer)
        return known

    async def _render_child(self) -> RenderChild:
        if self._renderer is None:
            self._renderer = RenderChild()
        return self._renderer


def _domain(copy: Copy) -> str:
    return copy.email.rpartition("@")[2]


def _not_sent(copy: Copy, status: Status, reason: str, now: int) -> Outcome:
    return Outcome(
        workspace_id=copy.workspace_id,
        message_id=copy.message_id,
        attempt=copy.attempt,
        status=status,
        at=now,
        campaign_id=copy.campaign_id,
        contact_id=copy.contact_id,
        site_id=copy.site_id,
        text=status.sentence,
        rule=reason,
    )
