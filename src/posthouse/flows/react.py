"""React: what a reply asks of more than its own message: brakes, a stop, a person; never anything of the recipient who was innocent.

Called in the transaction that settles the replies, a batch at a time. What a rule asks for is in the rule; this joins it to the
campaign that the reply was about, and to the rooms that keep brakes and campaigns.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from ipaddress import ip_network
from urllib.parse import urlsplit

import structlog
from msgspec import structs

from posthouse import campaigns, ledger, reputation
from posthouse.app import App
from posthouse.campaigns import CampaignTraits
from posthouse.db.pool import Connection
from posthouse.mail.rules import BrakeTerms, Rule
from posthouse.model.events import Event, EventKind
from posthouse.model.outcomes import Outcome, Reaction, Scope, Status
from posthouse.reputation import BrakeKind, BrakeSubject, Cause, NewSuppression, Reached, Refusal, Traits

_log = structlog.get_logger()
_REFUSED = frozenset({Status.DEFERRED, Status.BOUNCED, Status.EXPIRED})
_KEPT_REPLY = 300
# Campaigns are this stream.
_BROADCAST = "broadcast"
_KINDS = {
    Scope.STREAM: BrakeKind.CAMPAIGN,
    Scope.SOURCE_IP: BrakeKind.SOURCE,
    Scope.NETBLOCK: BrakeKind.NETBLOCK,
    Scope.HOST: BrakeKind.SITE,
    Scope.SENDING_DOMAIN: BrakeKind.DKIM_DOMAIN,
    Scope.DKIM_DOMAIN: BrakeKind.DKIM_DOMAIN,
    Scope.SPF_DOMAIN: BrakeKind.SPF_DOMAIN,
    Scope.URL_DOMAIN: BrakeKind.URL_DOMAIN,
    Scope.WORKSPACE: BrakeKind.WORKSPACE,
}


async def react(app: App, connection: Connection, outcomes: Sequence[Outcome]) -> None:
    """Do what the replies of a batch ask for, in the caller's transaction. Doing it again changes nothing."""
    rules = app.rules
    far: list[tuple[Outcome, Rule]] = []
    doubtful: list[tuple[Outcome, Rule]] = []
    for outcome in outcomes:
        rule = rules.named(outcome.rule) if outcome.rule is not None and outcome.status in _REFUSED else None
        if rule is None:
            continue
        if rule.reaches_further:
            far.append((outcome, rule))
        if rule.suppress_after > 1 and outcome.status is Status.BOUNCED:
            doubtful.append((outcome, rule))
    if doubtful:
        await _suppress_the_repeated(app, connection, doubtful)
    if not far:
        return
    known = await campaigns.traits_of(connection, list({outcome.campaign_id for outcome, _ in far}))
    asked = {rule.name: rule for _, rule in far}
    refusals = [_refusal(app, o, rule, known[o.campaign_id]) for o, rule in far if o.campaign_id in known]
    for reached in await reputation.count_refusals(connection, refusals, sandbox=app.sandbox):
        await _act(app, connection, reached, asked[reached.refusal.rule], known[reached.refusal.campaign_id])


def traits(app: App, campaign: CampaignTraits) -> Traits:
    """What brakes may be on, of a campaign."""
    domain = campaign.from_address.rpartition("@")[2]
    hosts = {app.mail_host, *(host for host in map(_host, campaign.links) if host)}
    return Traits(
        workspace_id=campaign.workspace_id,
        campaign_id=campaign.campaign_id,
        stream=_BROADCAST,
        dkim_domain=domain,
        spf_domain=f"{app.settings.sender.bounce_subdomain}.{domain}",
        url_domains=tuple(sorted(hosts)),
    )


async def _suppress_the_repeated(app: App, connection: Connection, found: Sequence[tuple[Outcome, Rule]]) -> None:
    """A reply that is wrong now and then suppresses only when it came on several days (standards, section 8: Microsoft 5.4.1)."""
    days = await reputation.count_refused_days(
        connection,
        [(rule.name, o.workspace_id, o.contact_id, o.message_id, o.attempt, o.at) for o, rule in found],
        sandbox=app.sandbox,
    )
    await reputation.suppress(
        connection,
        [
            NewSuppression(o.workspace_id, o.contact_id, 0, Cause.HARD_BOUNCE, o.at, o.message_id, _reply(o))
            for (o, rule), number in zip(found, days, strict=True)
            if number >= rule.suppress_after
        ],
    )


async def _act(app: App, connection: Connection, reached: Reached, rule: Rule, campaign: CampaignTraits) -> None:
    refusal = reached.refusal
    done: list[str] = []
    if rule.brake is not None and (reached.everywhere if refusal.everywhere else reached.here):
        until = await reputation.set_brake(connection, reached, rule.brake, sandbox=app.sandbox)
        pace = "waits" if rule.brake.is_hold else "is slowed"
        end = "a person ends it" if until is None else f"{until:%Y-%m-%d %H:%M} UTC"
        done.append(f"{_words(refusal)} {pace} until {end}.")
    lasts = rule.stop_after is not None and reached.here and _age(reached) >= timedelta(seconds=rule.stop_after)
    stops = lasts or (rule.reaction is Reaction.STOP and reached.everywhere)
    if stops:
        done.append(await _stop(app, connection, reached, rule, campaign))
    if not done and (rule.reaction is Reaction.STOP or not reached.here):
        return
    if rule.mend is not None:
        what = " ".join(done) or f"{_words(refusal)} was refused."
        await reputation.tell_person(connection, refusal, what, rule.mend, sandbox=app.sandbox)
    if stops or refusal.everywhere:
        await _note(connection, refusal, rule, " ".join(done))
    _log.warning("a reply asks for more", rule=rule.name, reply=refusal.reply, done=done)


async def _stop(app: App, connection: Connection, reached: Reached, rule: Rule, campaign: CampaignTraits) -> str:
    refusal = reached.refusal
    if rule.stops == "campaign":
        await campaigns.stop_campaign(connection, refusal.campaign_id, f"{rule.name}: {refusal.reply}")
        return f"Campaign {campaign.campaign_id} “{campaign.name}” is paused."
    stream = BrakeSubject(BrakeKind.STREAM, f"{refusal.workspace_id}/{_BROADCAST}", refusal.subject.site_id)
    held = structs.replace(reached, refusal=structs.replace(refusal, subject=stream))
    await reputation.set_brake(connection, held, BrakeTerms(None), sandbox=app.sandbox)
    return f"{_words(held.refusal)} waits until a person ends it."


async def _note(connection: Connection, refusal: Refusal, rule: Rule, what: str) -> None:
    """The ledger's line, beside that of the refusal itself."""
    event = Event(
        refusal.workspace_id,
        refusal.message_id,
        EventKind.STOPPED,
        refusal.attempt,
        refusal.at,
        refusal.campaign_id,
        0,
        refusal.subject.site_id,
        {"rule": rule.name, "text": what, "reply": refusal.reply},
    )
    await ledger.record(connection, [event])


def _age(reached: Reached) -> timedelta:
    return reputation.moment(reached.refusal.at) - reached.since


def _refusal(app: App, outcome: Outcome, rule: Rule, campaign: CampaignTraits) -> Refusal:
    own = traits(app, campaign)
    kind = _KINDS.get(rule.scope, BrakeKind.CAMPAIGN)
    # A domain that must be repaired is broken towards everybody.
    everywhere = (
        rule.reaction is Reaction.FIX and not kind.is_path and rule.brake is not None and rule.brake.seconds is None
    )
    named = None if everywhere else rule.subject_of(outcome.text)
    return Refusal(
        subject=_subject(kind, named, own, outcome),
        rule=rule.name,
        trigger=rule.trigger,
        workspace_id=outcome.workspace_id,
        campaign_id=outcome.campaign_id,
        message_id=outcome.message_id,
        attempt=outcome.attempt,
        at=outcome.at,
        reply=_reply(outcome),
        everywhere=everywhere,
    )


def _subject(kind: BrakeKind, named: str | None, own: Traits, outcome: Outcome) -> BrakeSubject:
    """What a reply is about. It may name only what is ours and in this message: a server's words must not slow somebody else."""
    value: str
    match kind:
        case BrakeKind.DKIM_DOMAIN:
            value = _named_or([own.dkim_domain], named) or own.dkim_domain
        case BrakeKind.SPF_DOMAIN:
            value = _named_or([own.spf_domain], named) or own.spf_domain
        case BrakeKind.URL_DOMAIN:
            value = _named_or(own.url_domains, named) or ""
        case BrakeKind.NETBLOCK:
            value = _network(named) or ""
        case BrakeKind.SITE:
            value = str(outcome.site_id)
        case BrakeKind.WORKSPACE:
            value = str(outcome.workspace_id)
        case BrakeKind.SOURCE:
            value = str(outcome.source_id)
        case _:
            value = str(outcome.campaign_id)
    if not value:  # which network or which link it was, the server did not say
        kind, value = (
            (BrakeKind.SOURCE, str(outcome.source_id))
            if kind is BrakeKind.NETBLOCK
            else (BrakeKind.CAMPAIGN, str(outcome.campaign_id))
        )
    return BrakeSubject(kind, value, outcome.site_id)


def _named_or(own: Sequence[str], named: str | None) -> str | None:
    if named is None or "." not in named:
        return None
    return named if any(name == named or name.endswith("." + named) for name in own) else None


def _network(named: str | None) -> str | None:
    try:
        network = ip_network(named or "", strict=False)
    except ValueError:
        return None
    if network.num_addresses == 1:
        network = network.supernet(new_prefix=24 if network.version == 4 else 64)
    return str(network)


def _host(link: str) -> str | None:
    try:
        return urlsplit(link).hostname
    except ValueError:
        return None


def _reply(outcome: Outcome) -> str:
    status = f" {outcome.enhanced}" if outcome.enhanced else ""
    return f"{outcome.code}{status} {outcome.text}"[:_KEPT_REPLY]


def _words(refusal: Refusal) -> str:
    where = "every provider" if refusal.everywhere else "this provider"
    return f"Mail of {refusal.subject.kind} {refusal.subject.value} to {where}"
