"""What each provider's reply asks of us, row by row (standards, section 8), in its real words."""

from __future__ import annotations

import pytest

from posthouse.mail.replies import Rules, Stage, parse_reply
from posthouse.mail.rules import BrakeTerms, Rule, Trigger
from posthouse.model.outcomes import BounceClass, Reaction, Scope

RULES = Rules.load()
HOSTS = {
    "google": "gmail-smtp-in.l.google.com",
    "yahoo": "mta5.am0.yahoodns.net",
    "microsoft": "outlook-com.olc.protection.outlook.com",
    "apple": "mx01.mail.icloud.com",
    "comcast": "mx1.comcast.net",
    "gmx": "mx00.gmx.net",
    "orange": "smtp-in.orange.fr",
    "qq": "mx1.qq.com",
    "netease": "163mx01.mxmail.netease.com",
}
MINUTE, HOUR, DAY = 60.0, 3600.0, 86_400.0
SLOW_10 = BrakeTerms(30 * MINUTE, per_minute=10.0, halve=True)
TWICE = Trigger(2, HOUR)
THREE_SITES = Trigger(10, HOUR, 3)


def hold(seconds: float | None) -> BrakeTerms:
    return BrakeTerms(seconds)


def met(host: str, text: str) -> Rule:
    verdict = RULES.interpret(parse_reply([text.encode()]), Stage.CONTENT, HOSTS.get(host, host))
    rule = RULES.named(verdict.rule)
    assert rule is not None, text
    assert verdict.scope is rule.scope
    return rule


UNUSUAL = "421 4.7.28 Gmail has detected an unusual rate of mail originating from your "


@pytest.mark.parametrize(
    ("host", "text", "scope", "reaction", "trigger", "brake"),
    [
        ("google", f"{UNUSUAL}IP address [192.0.2.1].", Scope.SOURCE_IP, Reaction.SLOW, TWICE, SLOW_10),
        ("google", f"{UNUSUAL}IP Netblock [192.0.2.0].", Scope.NETBLOCK, Reaction.SLOW, TWICE, SLOW_10),
        ("google", f"{UNUSUAL}DKIM domain [a.example 35].", Scope.DKIM_DOMAIN, Reaction.SLOW, TWICE, SLOW_10),
        ("google", f"{UNUSUAL}SPF domain [a.example 35].", Scope.SPF_DOMAIN, Reaction.SLOW, TWICE, SLOW_10),
        ("google", f"{UNUSUAL}URL domain [a.example 35].", Scope.URL_DOMAIN, Reaction.SLOW, TWICE, SLOW_10),
        (
            "google",
            "421 4.7.0 This message is suspicious due to the very low reputation of the sending domain.",
            Scope.SENDING_DOMAIN,
            Reaction.HOLD,
            Trigger(5, HOUR),
            hold(HOUR),
        ),
        (
            "google",
            "421 4.7.0 suspicious due to the nature of the content and/or the links within.",
            Scope.STREAM,
            Reaction.HOLD,
            Trigger(5, HOUR),
            hold(HOUR),
        ),
        ("google", "550 5.7.25 [192.0.2.1] no PTR record setup", Scope.SOURCE_IP, Reaction.FIX, Trigger(), hold(None)),
        (
            "google",
            "421 4.7.29 not sent over a TLS connection",
            Scope.SENDING_DOMAIN,
            Reaction.FIX,
            Trigger(),
            hold(None),
        ),
        ("google", "550 5.7.26 the sender is unauthenticated", Scope.DKIM_DOMAIN, Reaction.FIX, Trigger(), hold(None)),
        ("google", "421 4.7.32 From: header is not aligned", Scope.DKIM_DOMAIN, Reaction.FIX, Trigger(), hold(None)),
        ("google", "421 4.7.27 SPF did not pass", Scope.SPF_DOMAIN, Reaction.FIX, Trigger(), hold(None)),
        (
            "google",
            "550 5.7.24 suspicious entries in its SPF record",
            Scope.SPF_DOMAIN,
            Reaction.FIX,
            Trigger(),
            hold(None),
        ),
        ("google", "421 4.7.30 DKIM did not pass", Scope.DKIM_DOMAIN, Reaction.FIX, Trigger(), hold(None)),
        (
            "google",
            "550 5.7.28 There is an unusual rate of unsolicited mail originating from your IP address.",
            Scope.SOURCE_IP,
            Reaction.STOP,
            Trigger(),
            hold(4 * HOUR),
        ),
        ("yahoo", "421 4.7.0 [TSS04] Messages from 192.0.2.1", Scope.SOURCE_IP, Reaction.HOLD, TWICE, hold(2 * HOUR)),
        ("yahoo", "421 4.7.1 [IPTS04] deferred", Scope.SOURCE_IP, Reaction.HOLD, TWICE, hold(2 * HOUR)),
        ("yahoo", "421 4.7.0 [TSS05] Messages", Scope.SOURCE_IP, Reaction.HOLD, TWICE, hold(4 * HOUR)),
        (
            "yahoo",
            "421 4.7.0 [TS02] Messages",
            Scope.SOURCE_IP,
            Reaction.SLOW,
            Trigger(),
            BrakeTerms(30 * MINUTE, per_minute=1.0, halve=True),
        ),
        ("yahoo", "421 4.7.1 [TS03] All messages", Scope.SOURCE_IP, Reaction.SLOW, Trigger(), SLOW_10),
        ("yahoo", "553 5.7.2 [TSS11] All messages", Scope.SOURCE_IP, Reaction.FIX, Trigger(), hold(DAY)),
        ("yahoo", "553 5.7.1 [BL23] Connections", Scope.SOURCE_IP, Reaction.FIX, Trigger(), hold(2 * HOUR)),
        (
            "yahoo",
            "421 Max message per connection reached closing transmission channel",
            Scope.HOST,
            Reaction.RETRY,
            Trigger(),
            BrakeTerms(DAY, messages_per_connection=20),
        ),
        ("yahoo", "451 unresolvable RFC.5321 from domain", Scope.SPF_DOMAIN, Reaction.FIX, Trigger(), hold(None)),
        (
            "microsoft",
            "451 4.7.650 The mail server [192.0.2.5] has been temporarily rate limited due to IP reputation. (S775)",
            Scope.SOURCE_IP,
            Reaction.SLOW,
            Trigger(),
            BrakeTerms(90 * MINUTE, per_minute=1.0, connections=1, halve=True),
        ),
        (
            "microsoft",
            "421 RP-001 The mail server has exceeded the rate limit allowed.",
            Scope.SOURCE_IP,
            Reaction.SLOW,
            Trigger(),
            BrakeTerms(90 * MINUTE, per_minute=1.0, connections=1, halve=True),
        ),
        (
            "microsoft",
            "451 4.7.652 The mail server has exceeded the maximum number of connections. (S3115)",
            Scope.SOURCE_IP,
            Reaction.SLOW,
            Trigger(),
            BrakeTerms(HOUR, connections=1),
        ),
        (
            "microsoft",
            "421 4.7.0 Maximum messages per connection exceeded (IB007)",
            Scope.SOURCE_IP,
            Reaction.RETRY,
            Trigger(),
            BrakeTerms(HOUR, messages_per_connection=2),
        ),
        ("microsoft", "451 4.7.500 Server busy. (AS761)", Scope.SOURCE_IP, Reaction.HOLD, Trigger(), hold(30 * MINUTE)),
        ("microsoft", "451 4.7.700 PFA agent busy", Scope.SOURCE_IP, Reaction.HOLD, Trigger(), hold(30 * MINUTE)),
        ("microsoft", "451 4.7.860 Access denied", Scope.SOURCE_IP, Reaction.HOLD, Trigger(), hold(HOUR)),
        ("microsoft", "550 5.7.1 on our block list (S3150)", Scope.SOURCE_IP, Reaction.HOLD, Trigger(), hold(2 * HOUR)),
        ("microsoft", "550 5.7.606 banned sending IP", Scope.SOURCE_IP, Reaction.FIX, Trigger(), hold(DAY)),
        ("microsoft", "550 5.7.515 Access denied", Scope.DKIM_DOMAIN, Reaction.FIX, Trigger(), hold(None)),
        ("microsoft", "550 5.7.509 Access denied", Scope.DKIM_DOMAIN, Reaction.FIX, Trigger(), hold(None)),
        ("apple", "421 4.7.1 [HCM1] deferred", Scope.SOURCE_IP, Reaction.HOLD, Trigger(3, HOUR), hold(15 * MINUTE)),
        ("apple", "451 [BS02] deferred", Scope.SOURCE_IP, Reaction.HOLD, Trigger(3, HOUR), hold(15 * MINUTE)),
        ("apple", "554 5.7.1 [HME1] blocked", Scope.DKIM_DOMAIN, Reaction.FIX, Trigger(), hold(None)),
        (
            "apple",
            "550 5.7.1 a domain present in the Spamhaus DBL",
            Scope.URL_DOMAIN,
            Reaction.FIX,
            Trigger(),
            hold(4 * HOUR),
        ),
        ("comcast", "421 4.1.0 Throttled RL000010", Scope.WORKSPACE, Reaction.HOLD, Trigger(), hold(5 * MINUTE)),
        (
            "comcast",
            "421 4.1.0 Throttled RL000001",
            Scope.SOURCE_IP,
            Reaction.SLOW,
            TWICE,
            BrakeTerms(2 * HOUR, per_minute=10_000 / 60),
        ),
        (
            "gmx",
            "421 Nemesis ESMTP Service not available. Too many connections.",
            Scope.SOURCE_IP,
            Reaction.SLOW,
            Trigger(),
            BrakeTerms(30 * MINUTE, connections=1),
        ),
        ("gmx", "554 Reject due to policy restrictions.", Scope.SOURCE_IP, Reaction.HOLD, Trigger(), hold(2 * HOUR)),
        (
            "orange",
            "421 Trop de connexions",
            Scope.SOURCE_IP,
            Reaction.SLOW,
            Trigger(),
            BrakeTerms(HOUR, connections=1),
        ),
        ("orange", "421 Service refuse.", Scope.SOURCE_IP, Reaction.HOLD, Trigger(), hold(HOUR)),
        ("qq", "550 Domain frequency limited.", Scope.SOURCE_IP, Reaction.HOLD, Trigger(), hold(HOUR)),
        ("netease", "554 DT:SPM 163 mx12", Scope.STREAM, Reaction.HOLD, Trigger(), hold(15 * MINUTE)),
        ("netease", "550 RP:ORQ 163 mx15", Scope.SOURCE_IP, Reaction.HOLD, Trigger(), hold(HOUR)),
        ("mx.test", "554 5.7.1 listed at zen.spamhaus.org", Scope.SOURCE_IP, Reaction.FIX, Trigger(), hold(2 * HOUR)),
        (
            "mx.test",
            "550 5.7.1 Email rejected per DMARC policy",
            Scope.DKIM_DOMAIN,
            Reaction.FIX,
            THREE_SITES,
            hold(None),
        ),
    ],
)
def test_the_named_scope_is_slowed_or_held(
    host: str, text: str, scope: Scope, reaction: Reaction, trigger: Trigger, brake: BrakeTerms
) -> None:
    rule = met(host, text)
    assert (rule.scope, rule.reaction, rule.trigger, rule.brake) == (scope, reaction, trigger, brake)
    assert (rule.mend is not None) or reaction in (Reaction.SLOW, Reaction.HOLD, Reaction.RETRY)


@pytest.mark.parametrize(
    ("host", "text", "stops", "trigger"),
    [
        ("google", "421 4.7.28 messages with the same Message-ID.", "campaign", Trigger()),
        ("google", "550 5.7.1 not RFC 5322 compliant: duplicate headers.", "campaign", Trigger()),
        ("google", "550 5.7.28 unusual rate of unsolicited mail", "stream", Trigger()),
        ("yahoo", "554 5.7.9 Message not accepted for policy reasons.", "campaign", Trigger()),
        ("yahoo", "554 Message not allowed - [PH01] Email", "campaign", Trigger()),
        ("apple", "550 5.7.1 [CS01] Message rejected due to local policy.", "campaign", Trigger()),
        ("mx.test", "554 5.7.1 it contains spam", "campaign", THREE_SITES),
        ("mx.test", "554 5.7.1 the URL a.example, listed by SURBL", "campaign", THREE_SITES),
    ],
)
def test_what_is_wrong_with_the_message_stops_it(host: str, text: str, stops: str, trigger: Trigger) -> None:
    rule = met(host, text)
    assert (rule.reaction, rule.stops, rule.trigger) == (Reaction.STOP, stops, trigger)


@pytest.mark.parametrize(
    "text", ["421 4.7.0 very low reputation", "421 4.7.0 suspicious due to the nature of the content"]
)
def test_what_google_distrusts_for_more_than_half_an_hour_stops(text: str) -> None:
    assert met("google", text).stop_after == 1800


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("google", "450 4.2.1 receiving mail at a rate that prevents"),
        ("google", "452 4.2.2 out of storage space"),
        ("google", "421 4.3.0 Temporary System Problem"),
        ("google", "451 4.4.2 Timeout"),
        ("google", "550 5.1.1 does not exist"),
        ("google", "550 5.2.1 is disabled"),
        ("yahoo", "552 1 Requested mail action aborted, mailbox not found"),
        ("yahoo", "554 30 Sorry. This mailbox is disabled (554.30)."),
        ("microsoft", "550 5.5.0 mailbox unavailable"),
        ("microsoft", "432 4.3.2 STOREDRV.Deliver; recipient thread limit exceeded"),
        ("microsoft", "550 5.4.1 Recipient address rejected: Access denied."),
        ("mx.test", "450 4.2.0 Greylisted"),
    ],
)
def test_what_is_about_one_recipient_touches_nothing_else(host: str, text: str) -> None:
    rule = met(host, text)
    assert (rule.brake, rule.mend, rule.reaches_further) == (None, None, False)


def test_an_address_that_the_edge_refuses_is_suppressed_on_the_second_day_only() -> None:
    rule = met("microsoft", "550 5.4.1 Recipient address rejected: Access denied.")
    assert (rule.suppress_after, rule.permanent_verdict.reaction) == (2, Reaction.FAIL)


@pytest.mark.parametrize(
    ("host", "text"),
    [
        ("yahoo", "553 5.7.2 [TSS09] All messages will be permanently deferred"),
        ("yahoo", "553 5.7.1 [BL21] Connections will not be accepted"),
        ("mx.test", "554 5.7.1 blocked using zen.spamhaus.org"),
    ],
)
def test_a_block_of_ours_fails_as_blocked(host: str, text: str) -> None:
    verdict = met(host, text).permanent_verdict
    assert (verdict.bounce_class, verdict.permanent) == (BounceClass.BLOCKED, True)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (f"{UNUSUAL}DKIM domain [News.Example.com 35].", "news.example.com"),
        (f"{UNUSUAL}SPF domain [bounces.example.com. 35].", "bounces.example.com"),
        (f"{UNUSUAL}DKIM domain. To protect", None),
        ("421 4.7.28 unusual rate of mail containing one of your URL domains [shop.example 35].", "shop.example"),
        (f"{UNUSUAL}IP Netblock [2001:db8::/48 12].", "2001:db8::/48"),
        (f"{UNUSUAL}IP address.", None),
    ],
)
def test_the_name_that_a_reply_gives_is_found(text: str, named: str | None) -> None:
    assert met("google", text).subject_of(text) == named


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.name)
def test_who_must_repair_something_is_told_how_and_by_more_than_one_site_where_anybody_may_say_it(rule: Rule) -> None:
    if rule.reaction not in (Reaction.STOP, Reaction.FIX):
        return
    assert rule.mend is not None
    assert not rule.mend.startswith("Read the reply and"), "say what to do"
    wide = rule.reaction is Reaction.STOP or rule.scope not in (Scope.SOURCE_IP, Scope.NETBLOCK, Scope.HOST)
    if wide and not rule.providers:
        assert rule.trigger.sites >= 3


def test_nothing_but_a_dead_address_ever_suppresses_one() -> None:
    """BNC-5."""
    for rule in RULES.rules:
        if rule.scope is not Scope.RECIPIENT:
            assert rule.reaction is not Reaction.SUPPRESS
