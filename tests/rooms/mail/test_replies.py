"""What servers say, and what it means for the message, the address and the path."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.replies import Failure, Rules, Stage, parse_reply
from posthouse.mail.rules import Rule
from posthouse.model.errors import SettingWrong
from posthouse.model.outcomes import BounceClass, Reaction, Reply, Scope, Verdict

RULES = Rules.load()
SUPPRESSING_CLASSES = {BounceClass.USER_UNKNOWN, BounceClass.DOMAIN_BAD, BounceClass.INACTIVE}
RESPONSES = Path(__file__).parents[3].parent / "shared/corpora/replies/responses.toml"
PROVIDER_OF_DOMAIN = {
    "aol.com": "yahoo",
    "rocketmail.com": "yahoo",
    "yahoo.com": "yahoo",
    "yahoo.ca": "yahoo",
    "gmail.com": "google",
    "hotmail.com": "microsoft",
}


def said(text: str, stage: Stage = Stage.RCPT, provider: str | None = None) -> Verdict:
    return RULES.interpret(parse_reply(text.encode().splitlines()), stage, provider)


# ── Reading a reply (SMTP-16) ──


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b"250 2.1.5 Ok\r\n"], Reply(250, "2.1.5", "Ok")),
        ([b"250"], Reply(250, None, "")),
        (
            [b"550-5.1.1 The account\r\n", b"550 5.1.1 does not exist\r\n"],
            Reply(550, "5.1.1", "The account does not exist"),
        ),
        ([b"450-4.7.1 a", b"550 5.7.1 b"], Reply(550, "4.7.1", "a b")),
        ([b"  550  User unknown "], Reply(550, None, "User unknown")),
        (
            [b"554 sorry, no mailbox here by that name (#5.1.1)"],
            Reply(554, "5.1.1", "sorry, no mailbox here by that name (#5.1.1)"),
        ),
        ([b"550 #5.1.0 Address rejected."], Reply(550, "5.1.0", "Address rejected.")),
        ([b"421 connection from 4.16.55.1 refused"], Reply(421, None, "connection from 4.16.55.1 refused")),
        ([b"550,5.1.1 http://example.com/answer"], Reply(550, "5.1.1", "http://example.com/answer")),
        ([b"550-first", b"second without a code", b"550 third"], Reply(550, None, "first second without a code third")),
        ([b"SSH-2.0-OpenSSH_9.2"], Reply(0, None, "SSH-2.0-OpenSSH_9.2")),
        ([b"550 \xff\xfe"], Reply(550, None, "\ufffd\ufffd")),
    ],
)
def test_a_reply_is_read_as_it_comes(lines: list[bytes], expected: Reply) -> None:
    assert parse_reply(lines) == expected


def test_an_endless_reply_is_cut() -> None:
    reply = parse_reply([b"250-" + b"x" * 10_000] * 1_000)
    assert len(reply.text) == 4096


@given(
    st.lists(st.binary(max_size=200), min_size=1, max_size=5),
    st.sampled_from(Stage),
    st.sampled_from([None, "google", "mx.example.com"]),
)
def test_whatever_is_said_gets_a_meaning_in_which_the_code_decides(
    lines: list[bytes], stage: Stage, provider: str | None
) -> None:
    reply = parse_reply(lines)
    verdict = RULES.interpret(reply, stage, provider)
    if reply.code < 500:
        assert not verdict.permanent
        assert verdict.reaction is not Reaction.SUPPRESS


# ── What nobody has a rule for (BNC-4, BNC-5) ──


def test_an_unknown_4xx_is_temporary_and_an_unknown_5xx_blames_no_address() -> None:
    assert said("499 4.9.9 Blorb") == Verdict(
        False, BounceClass.UNDETERMINED, Scope.MESSAGE, Reaction.RETRY, "unknown-temporary"
    )
    assert said("599 5.9.9 Blorb") == Verdict(
        True, BounceClass.UNDETERMINED, Scope.MESSAGE, Reaction.FAIL, "unknown-permanent"
    )


@pytest.mark.parametrize("text", ["SSH-2.0", "354 Go ahead", "999 What"])
def test_what_is_no_answer_is_temporary(text: str) -> None:
    verdict = said(text)
    assert (verdict.permanent, verdict.bounce_class, verdict.reaction) == (False, BounceClass.PROTOCOL, Reaction.RETRY)


def test_every_2xx_is_a_delivery_whatever_it_says() -> None:
    assert said("250 user unknown, spam, blacklisted").reaction is Reaction.DELIVERED


@pytest.mark.parametrize("status", ["5.1.1", "5.1.2", "5.1.3", "5.1.6", "5.1.10", "5.2.1", "5.7.17"])
def test_a_status_about_the_recipient_suppresses_without_any_words(status: str) -> None:
    assert said(f"550 {status} Blorb").reaction is Reaction.SUPPRESS


@pytest.mark.parametrize(
    "status",
    ["5.0.0", "5.1.0", "5.1.8", "5.2.2", "5.3.4", "5.4.1", "5.5.0", "5.6.0", "5.7.0", "5.7.1", "5.7.25", "5.7.26"],
)
def test_no_other_status_does(status: str) -> None:
    verdict = said(f"550 {status} Blorb")
    assert verdict.permanent
    assert verdict.reaction is not Reaction.SUPPRESS


def test_the_code_beats_a_status_that_contradicts_it() -> None:
    assert said("450 5.1.1 Blorb").reaction is Reaction.RETRY
    assert said("550 4.1.1 Blorb").reaction is Reaction.SUPPRESS


def test_what_is_said_before_a_recipient_was_named_suppresses_none() -> None:
    text = "550 5.1.1 <bounce@example.com>: User unknown"
    assert said(text, Stage.RCPT).reaction is Reaction.SUPPRESS
    for stage in (Stage.GREETING, Stage.EHLO, Stage.STARTTLS, Stage.AUTH, Stage.MAIL):
        assert said(text, stage).reaction is not Reaction.SUPPRESS


def test_a_refusal_at_the_door_is_no_refusal_of_the_message() -> None:
    assert not said("554 No service", Stage.GREETING).permanent
    assert said("554 No service", Stage.CONTENT).permanent


def test_mailbox_unavailable_blames_the_address_only_in_answer_to_it() -> None:
    text = "550 Requested action not taken: mailbox unavailable"
    assert said(text, Stage.RCPT).reaction is Reaction.SUPPRESS
    assert said(text, Stage.CONTENT).reaction is Reaction.FAIL


def test_words_inside_an_address_are_not_the_servers_words() -> None:
    assert said("550 5.1.1 <spam-virus-blacklist@example.com>").bounce_class is BounceClass.USER_UNKNOWN


def test_replies_that_differ_only_in_addresses_and_ids_are_judged_once() -> None:
    rules = Rules.load()
    for n in range(50):
        reply = parse_reply([f"550 5.1.1 <u{n}@example.com> gone from 192.0.2.{n} id {n:05}abcdefgh{n:04}".encode()])
        assert rules.interpret(reply, Stage.RCPT, "google").rule == "google-no-such-user"
    assert rules._decide_again.cache_info().misses == 1


# ── Providers ──


@pytest.mark.parametrize("host", ["gmail-smtp-in.l.google.com", "ASPMX.L.GOOGLE.COM.", "google.com"])
def test_a_provider_is_known_by_its_hosts(host: str) -> None:
    assert RULES.provider_of(host) == "google"
    assert said("450 4.3.0 Blorb", provider=host).rule == "google-own-trouble"


@pytest.mark.parametrize("host", ["notgoogle.com", "google.com.example.net", ""])
def test_a_host_that_only_looks_like_a_providers_is_nobodys(host: str) -> None:
    assert RULES.provider_of(host) is None
    assert said("450 4.3.0 Blorb", provider=host).rule == "status-mail-system"


@pytest.mark.parametrize(
    ("provider", "text", "reaction", "hold"),
    [
        (
            "google",
            "421 4.7.28 unusual rate of mail originating from your SPF domain [example.com]",
            Reaction.SLOW,
            1800,
        ),
        ("yahoo", "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred", Reaction.HOLD, 7200),
        ("yahoo", "553 5.7.2 [TSS11] All messages from 192.0.2.1 will be permanently deferred", Reaction.FIX, 86400),
        ("microsoft", "451 4.7.650 temporarily rate limited due to IP reputation (S775)", Reaction.SLOW, 5400),
        ("comcast", "421 4.1.0 Throttled RL000010", Reaction.HOLD, 300),
        (None, "554 5.7.1 blocked using zen.spamhaus.org", Reaction.FIX, 7200),
    ],
)
def test_replies_about_the_path_say_how_long_it_rests(
    provider: str | None, text: str, reaction: Reaction, hold: float
) -> None:
    verdict = said(text, provider=provider)
    assert (verdict.reaction, verdict.hold_seconds) == (reaction, hold)


@pytest.mark.parametrize(
    ("provider", "text", "retry_after"),
    [
        ("qq", "550 Domain frequency limited", 3600),
        ("microsoft", "550 5.7.1 part of their network is on our block list (S3140)", 7200),
        ("google", "550 5.2.1 The user you are trying to contact is receiving mail at a rate that prevents", 3600),
        ("google", "450 4.2.1 The user you are trying to contact is receiving mail too quickly", 3600),
        (None, "450 4.7.1 Greylisted for 300 seconds", 600),
    ],
)
def test_temporary_trouble_is_temporary_even_if_it_is_said_with_550(
    provider: str | None, text: str, retry_after: float
) -> None:
    verdict = said(text, provider=provider)
    assert (verdict.permanent, verdict.retry_after) == (False, retry_after)


def test_a_named_scope_is_the_one_that_slows_down() -> None:
    text = "421 4.7.28 Gmail has detected an unusual rate of mail originating from your {}"
    for words, scope in {
        "DKIM domain [example.com 35]": Scope.DKIM_DOMAIN,
        "SPF domain": Scope.SPF_DOMAIN,
        "URL domain": Scope.URL_DOMAIN,
        "IP Netblock": Scope.NETBLOCK,
        "IP address": Scope.SOURCE_IP,
    }.items():
        assert said(text.format(words), provider="google").scope is scope


# ── Failures without a reply ──


def test_every_failure_has_a_verdict_that_agrees_with_its_status() -> None:
    for failure in Failure:
        verdict = RULES.interpret_failure(failure, Stage.CONNECT)
        assert verdict.permanent == failure.enhanced.startswith("5")
        assert verdict.rule == failure.value
    suppressing = {f for f in Failure if RULES.interpret_failure(f, Stage.CONNECT).reaction is Reaction.SUPPRESS}
    assert suppressing == {Failure.DNS_NXDOMAIN, Failure.NULL_MX}


def test_a_connection_lost_during_starttls_is_a_tls_failure() -> None:
    assert RULES.interpret_failure(Failure.CONNECTION_LOST, Stage.STARTTLS).bounce_class is BounceClass.TLS
    assert RULES.interpret_failure(Failure.CONNECTION_LOST, Stage.CONTENT).bounce_class is BounceClass.NETWORK


# ── The shipped rules ──


@pytest.mark.parametrize("rule", RULES.rules, ids=lambda rule: rule.name)
def test_each_shipped_rule_decides_its_own_example(rule: Rule) -> None:
    assert rule.example is not None
    stage = next(iter(rule.stages - {Stage.GREETING, Stage.EHLO}), Stage.GREETING if rule.stages else Stage.RCPT)
    for provider in rule.providers or {None, "mx.example.com"}:
        assert said(rule.example, stage, provider).rule == rule.name


def test_only_recipients_are_suppressed_and_only_for_the_three_classes() -> None:
    for rule in RULES.rules:
        if rule.permanent_verdict.reaction is Reaction.SUPPRESS:
            assert rule.permanent_verdict.scope is Scope.RECIPIENT
            assert rule.permanent_verdict.bounce_class in SUPPRESSING_CLASSES


# ── An operator's own rules ──

OWN_RULE = """
[providers]
mimecast = ["mimecast.com"]
[[rule]]
name = "our-partner"
provider = ["mimecast"]
codes = ["5xx"]
phrases = ["blorb"]
class = "policy"
scope = "source-ip"
reaction = "hold"
hold = 60
permanent = false
"""


def test_an_operators_rules_come_first_and_may_name_a_new_provider(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(OWN_RULE)
    rules = Rules.load(path)
    reply = parse_reply([b"550 5.1.1 Blorb"])
    assert rules.interpret(reply, Stage.RCPT, "eu-smtp-inbound-1.mimecast.com").rule == "our-partner"
    assert rules.interpret(reply, Stage.RCPT, "mx.example.com").rule == "status-bad-mailbox"


@pytest.mark.parametrize(
    ("old", "new", "line", "key", "reason"),
    [
        ('class = "policy"', 'class = "polizy"', 9, "class", "Invalid enum value 'polizy'"),
        ('provider = ["mimecast"]', 'provider = ["mimikast"]', 6, "provider", "no provider is called “mimikast”"),
        ('codes = ["5xx"]', "codes = [250]", 7, "codes", "code 250 is not"),
        ('phrases = ["blorb"]', 'phrases = ["Blorb"]', 8, "phrases", "lower case"),
        ('phrases = ["blorb"]', 'pattern = "(blorb"', 8, "pattern", "unterminated subpattern"),
        ('phrases = ["blorb"]', 'enhanced = ["5.1"]', 8, "enhanced", "status “5.1” is not like"),
        ('phrases = ["blorb"]', "phrases = [\n  3 ]", 8, "phrases", "Expected `str`"),
        ('reaction = "hold"', 'reaction = "delivered"', 11, "reaction", "no rule may call a refusal delivered"),
        ('reaction = "hold"', 'reaction = "suppress"', 11, "reaction", "only scope recipient"),
        (
            'class = "policy"\nscope = "source-ip"\nreaction = "hold"',
            'class = "inactive"\nscope = "recipient"\nstages = ["mail"]\nreaction = "suppress"',
            11,
            "stages",
            "nothing said at stage mail",
        ),
        ('provider = ["mimecast"]\ncodes = ["5xx"]\nphrases = ["blorb"]', "", 4, None, "no condition"),
        ("hold = 60", "hold = -1", 12, "hold", ">= 0"),
        ("hold = 60", "hould = 60", 12, "hould", "unknown field"),
        ('scope = "source-ip"\n', "", 4, None, "missing required field `scope`"),
        ("hold = 60", "", 11, "reaction", "reaction hold needs hold"),
        ("hold = 60", "connections = 1", 12, "connections", "say with hold for how many seconds"),
        ("hold = 60", 'hold = 60\nrate = "10/day"', 13, "rate", "matching regex"),
        ("hold = 60", 'hold = 60\nrate = "0/hour"', 13, "rate", "a rate of nothing is reaction hold"),
        ("hold = 60", 'hold = 60\nrepeat = "halve"', 13, "repeat", "no rate to halve"),
        ("hold = 60", 'hold = 60\nstops = "stream"', 13, "stops", "goes with reaction stop"),
        ("hold = 60", "hold = 60\nsuppress_after = 2", 13, "suppress_after", "goes with reaction suppress"),
        ("hold = 60", 'hold = 60\nsubject = "domain"', 13, "subject", "exactly one group"),
        ("hold = 60", "hold = 60\nafter = 0", 13, "after", ">= 1"),
        ('scope = "source-ip"', 'scope = "recipient"', 10, "scope", "scope recipient is one message"),
        ('reaction = "hold"\nhold = 60', 'reaction = "fail"\nafter = 2', 12, "after", "asks nothing"),
        ('reaction = "hold"\nhold = 60', 'reaction = "fail"\nstop_after = 2', 12, "stop_after", "no brake"),
        (
            'scope = "source-ip"\nreaction = "hold"\nhold = 60',
            'scope = "recipient"\nreaction = "fail"\nfails_as = "blocked"',
            12,
            "fails_as",
            "not blocked",
        ),
    ],
)
def test_a_wrong_rule_is_told_with_file_line_rule_key_and_reason(
    tmp_path: Path, old: str, new: str, line: int, key: str | None, reason: str
) -> None:
    path = tmp_path / "own.toml"
    assert old in OWN_RULE
    path.write_text(OWN_RULE.replace(old, new))
    with pytest.raises(SettingWrong) as caught:
        Rules.load(path)
    place = f"own.toml, line {line}, rule “our-partner”" + (f", {key}: " if key else ": ")
    assert place in str(caught.value)
    assert reason in str(caught.value).partition(place)[2]


ODD_FILE = r'''# [[rule]]
[providers] # [[rule]]
x = ["""x[""", "y]\"[[rule]]", # ]
  'z' ]
[[rule]]
name = 'first'
phrases = ['a']
mend = """
[[rule]]
codes = [\""""
class = 'policy'
scope = 'host'
reaction = 'fail'
 [[ rule ]]
name = 'second'
'phrases' = [
 'b',
]
class = 'policy'
scope='host'
reaction='fale'
'''


def test_the_line_is_right_however_the_file_is_written(tmp_path: Path) -> None:
    """Brackets, quotes and words like headers inside strings and comments are no tables."""
    path = tmp_path / "own.toml"
    path.write_text(ODD_FILE)
    with pytest.raises(SettingWrong, match="line 21, rule “second”, reaction: Invalid enum value 'fale'"):
        Rules.load(path)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[rule]", r"is not TOML: .*at line 1,"),
        ("\nrules = []", "line 2, has “rules”"),
        ("[providers]\na = ['x']\n[other]", "line 3, has “other”"),
        ("[providers]\na = ['x']\nb = 3", r"line 3, \[providers\]: Expected `array`"),
        ("[providers]\na = ['']", r"line 1, \[providers\]: Expected `str` of length >= 1"),
        ("\n\nrule = 3", "line 3: write each rule as a table of its own"),
        ("rule = [{ name = 'a' }]", "line 1: write each rule as a table of its own"),
        (OWN_RULE + OWN_RULE.partition("[[rule]]")[2].join(["[[rule]]", ""]), "same name"),
    ],
)
def test_a_wrong_file_is_named_with_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(text)
    with pytest.raises(SettingWrong, match=reason) as caught:
        Rules.load(path)
    assert "own.toml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingWrong, match=r"gone\.toml cannot be read"):
        Rules.load(tmp_path / "gone.toml")


# ── Real replies that others collected ──


@pytest.mark.skipif(not RESPONSES.exists(), reason="the shared corpora are not beside the project")
def test_real_refusals_of_dead_mailboxes_and_no_others_suppress() -> None:
    responses = tomllib.loads(RESPONSES.read_text())
    dead = (
        "not found",
        "does not exist",
        "is disabled",
        "no longer valid",
        "doesn't have a",
        "mailbox unavailable",
        "not a valid",
        "lookup failed",
    )
    seen = 0
    for kind in ("defer", "bounce"):
        for domain, entries in responses[kind].items():
            for entry in entries:
                text = f"{entry['code']} {entry['msg']}"
                verdict = said(text, provider=PROVIDER_OF_DOMAIN.get(domain))
                named_dead = entry["code"] >= 500 and any(words in text.lower() for words in dead)
                assert (verdict.reaction is Reaction.SUPPRESS) == named_dead, text
                seen += 1
    assert seen == 63
