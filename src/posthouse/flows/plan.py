"""Plan: a campaign is checked against its list, its domain and the law before it is frozen and handed to launch."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Struct

from posthouse import accounts, audience, campaigns
from posthouse.app import App
from posthouse.campaigns import NewCampaign
from posthouse.composing import CompiledMessage, Draft, Frame, compile_message, missing_fields
from posthouse.composing.proof import prove_template
from posthouse.mail.address import Address, parse_address
from posthouse.model.errors import Refused

_EXAMPLES = 3
_SAMPLES = 20


class Order(Struct, frozen=True):
    """What a person wants sent. recipients_list: a list of that workspace; name: unique in the workspace."""

    workspace_id: int
    name: str
    recipients_list: audience.List
    draft: Draft


class MissingField(Struct, frozen=True):
    """A merge field that the template needs and some recipients lack, with a few of them."""

    field: str
    recipients: int
    examples: tuple[str, ...]


class Preflight(Struct, frozen=True):
    """What would be sent. blockers: sentences that forbid sending; warnings: sentences worth reading first."""

    order: Order
    compiled: CompiledMessage
    frame: Frame
    recipients: int
    missing: tuple[MissingField, ...]
    blockers: tuple[str, ...]
    warnings: tuple[str, ...]


async def preflight(app: App, order: Order) -> Preflight:
    """Compile the template, prove it, and check everything that can be known before the first message leaves.

    Raises TemplateWrong or AddressWrong when there is nothing to check.
    """
    sender = parse_address(order.draft.from_address)
    frame = _frame(app, order, sender)
    compiled = compile_message(order.draft, frame)
    if compiled.engine:
        await prove_template(compiled, await _samples(app, order))
    async with app.db.acquire() as connection:
        recipients = await audience.count_recipients(connection, order.workspace_id, order.recipients_list.list_id)
    missing = await _missing_fields(app, order, compiled) if compiled.fields else ()
    blockers = [*await _domain_blockers(app, order, sender), *_law_blockers(app, compiled)]
    if await campaigns.name_is_taken(app.db, order.workspace_id, order.name):
        blockers.append(campaigns.name_taken(order.name))
    if not recipients:
        blockers.append(f"The list “{order.recipients_list.name}” has no subscribed contact.")
    blockers += [
        f"{each.recipients} of {recipients} recipients have no {each.field} (such as {', '.join(each.examples)}): "
        f"fill it in, or give a default: {{{{ {each.field}|default('…') }}}}."
        for each in missing
    ]
    return Preflight(
        order, compiled, frame, recipients, missing, tuple(blockers), (*compiled.warnings, *_setting_warnings(app))
    )


async def start_campaign(app: App, checked: Preflight) -> int:
    """Freeze a checked campaign and hand it to launch; returns its id. Raises Refused with the first blocker."""
    if checked.blockers:
        raise Refused(checked.blockers[0])
    order = checked.order
    return await campaigns.create_campaign(
        app.db,
        NewCampaign(
            workspace_id=order.workspace_id,
            name=order.name,
            list_id=order.recipients_list.list_id,
            from_address=parse_address(order.draft.from_address).text,
            subject=order.draft.subject,
            compiled=checked.compiled.to_bytes(),
            frame=msgspec.to_builtins(checked.frame),
            links=checked.compiled.links,
        ),
        app.clock.now(),
    )


def _frame(app: App, order: Order, sender: Address) -> Frame:
    bounces = f"{app.settings.sender.bounce_subdomain}.{sender.domain}"
    chosen = order.recipients_list
    slug = _slug(chosen.name)
    # MSG-6: the last part is the sender's own, stable and 5 to 15 characters long.
    sender_id = "ph" + hashlib.sha256(sender.domain.encode()).hexdigest()[:8]
    return Frame(
        public_url=app.settings.public.url,
        bounce_domain=bounces,
        list_id_header=f"{chosen.name} <{slug}-{chosen.list_id}.{sender.domain}>",
        feedback_id=f"{_slug(order.name)}:{slug}:broadcast:{sender_id}",
        complaints_address=f"complaints@{bounces}",
        message_id_domain=sender.domain,
        postal_address=app.settings.sender.postal_address,
    )


async def _samples(app: App, order: Order) -> list[Mapping[str, Any]]:
    """The fields of the first few recipients, for the proof of the template."""
    async for batch in audience.stream_fields(app.db, order.workspace_id, order.recipients_list.list_id):
        return [fields for _, _, fields in batch[:_SAMPLES]]
    return []


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:40] or "list"


async def _missing_fields(app: App, order: Order, compiled: CompiledMessage) -> tuple[MissingField, ...]:
    counts: Counter[str] = Counter()
    examples: dict[str, list[str]] = {}
    async for batch in audience.stream_fields(app.db, order.workspace_id, order.recipients_list.list_id):
        for _, email, fields in batch:
            for name in missing_fields(compiled, fields):
                counts[name] += 1
                shown = examples.setdefault(name, [])
                if len(shown) < _EXAMPLES:
                    shown.append(email)
    return tuple(MissingField(name, count, tuple(examples[name])) for name, count in counts.most_common())


async def _domain_blockers(app: App, order: Order, sender: Address) -> Sequence[str]:
    domain = await accounts.find_domain(app.db, order.workspace_id, sender.domain)
    if domain is None:
        return [f"{sender.domain} is not a sending domain here: run `posthouse domain add {sender.domain}` first."]
    if domain.verified_at is None and not app.sandbox:
        return [
            f"{sender.domain} is not verified, so nothing is sent from it: publish its records and run "
            f"`posthouse domain verify {sender.domain}`, or rehearse with --sandbox."
        ]
    return []


def _law_blockers(app: App, compiled: CompiledMessage) -> list[str]:
    """What the law and the large providers ask of every marketing message (UNS-7, US-1, CA-2)."""
    blockers = []
    if not compiled.has_body_unsubscribe:
        blockers.append("The message has no unsubscribe link: put {{ unsubscribe_url }} in it as a link.")
    if not compiled.has_postal_address:
        blockers.append("The message has no postal address: put {{ postal_address }} in it.")
    elif not app.settings.sender.postal_address:
        blockers.append("Your postal address is not set: set sender.postal_address in posthouse.toml.")
    return blockers


def _setting_warnings(app: App) -> list[str]:
    if not app.settings.public.url.startswith("https://"):
        return ["public.url is not https, so providers will not offer one-click unsubscribe (UNS-1)."]
    return []
