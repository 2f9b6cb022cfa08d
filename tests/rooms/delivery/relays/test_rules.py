"""The rules about relays' refusals: each decides its own example, none can do harm, and an operator's file comes first."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from pathlib import Path

import pytest

from posthouse.delivery import Answer
from posthouse.delivery.relays import RelayRules, is_outage
from posthouse.delivery.relays.rules import RelayError, RelayRule
from posthouse.delivery.verdict import judge
from posthouse.mail.replies import Rules, Stage
from posthouse.model.errors import SettingWrong
from posthouse.model.messages import Copy
from posthouse.model.outcomes import BounceClass, Reaction, Reply, Scope, Status, Verdict
from posthouse.model.retry import RetrySchedule

NOW = datetime(2026, 3, 1, 22, 0, tzinfo=UTC)
SHIPPED = RelayRules.load()


def _verdict(rules: RelayRules, rule: RelayRule) -> Verdict:
    example = rule.example
    assert example is not None, f"{rule.name} has no example"
    if example.failure is not None:
        return rules.interpret_failure(example.relay, example.failure, NOW)
    return rules.interpret(example.relay, RelayError(example.status, example.error, example.text), NOW)


@pytest.mark.parametrize("rule", SHIPPED.rules, ids=lambda rule: rule.name)
def test_every_rule_decides_its_example(rule: RelayRule) -> None:
    verdict = _verdict(SHIPPED, rule)
    assert (verdict.rule, verdict.bounce_class) == (rule.name, rule.bounce_class)
    assert verdict.permanent == (rule.reaction is Reaction.FAIL)
    assert verdict.reaction is not Reaction.SUPPRESS
    # What is temporary says when to come back; what stops the whole account says for how long.
    assert verdict.permanent or verdict.retry_after
    if verdict.scope is Scope.RELAY and verdict.reaction in (Reaction.HOLD, Reaction.SLOW):
        assert verdict.hold_seconds


def test_what_must_hold_of_the_shipped_rules() -> None:
    asked = {rule.name: rule for rule in SHIPPED.rules}
    for name in (
        "ses-account-suspended",
        "ses-sending-paused",
        "sendgrid-account-suspended",
        "mailgun-account-disabled",
    ):
        verdict = _verdict(SHIPPED, asked[name])
        assert (verdict.reaction, verdict.scope, verdict.permanent) == (Reaction.FIX, Scope.RELAY, False)
        assert verdict.hold_seconds == 3600
    for name in ("ses-identity-unverified", "sendgrid-identity-unverified", "mailgun-identity-unverified"):
        verdict = _verdict(SHIPPED, asked[name])
        assert (verdict.reaction, verdict.scope, verdict.permanent) == (Reaction.FIX, Scope.SENDING_DOMAIN, False)
    for name in ("ses-daily-quota", "sendgrid-credits"):
        assert _verdict(SHIPPED, asked[name]).reaction is Reaction.HOLD
    for name in ("ses-message-rejected", "sendgrid-message-rejected", "mailgun-message-rejected"):
        assert _verdict(SHIPPED, asked[name]).reaction is Reaction.FAIL


def test_a_block_is_never_an_outage() -> None:
    for rule in SHIPPED.rules:
        verdict = _verdict(SHIPPED, rule)
        answer = Answer(Stage.CONTENT, "relay", Reply(400, None, ""), verdict=verdict)
        if verdict.bounce_class in (BounceClass.POLICY, BounceClass.AUTH_FAILURE, BounceClass.SPAM_CONTENT):
            assert not is_outage(answer, verdict)


def _file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "relays.toml"
    path.write_text(text)
    return path


def test_an_operators_rule_comes_first(tmp_path: Path) -> None:
    path = _file(
        tmp_path,
        '[[rule]]\nname = "mine"\nrelays = ["ses"]\nphrases = ["maximum sending rate"]\nclass = "rate"\n'
        'scope = "relay"\nreaction = "hold"\nhold = 77\n',
    )
    error = RelayError(429, "TooManyRequestsException", "Maximum sending rate exceeded.")
    rules = RelayRules.load(path)
    assert (rules.interpret("ses", error, NOW).rule, rules.interpret("ses", error, NOW).hold_seconds) == ("mine", 77)
    assert rules.interpret("mailgun", error, NOW).rule == "mailgun-throttled"


RULE = 'name = "a"\nclass = "rate"\nscope = "relay"\nreaction = "slow"\n'


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[rule]\n", "is not TOML"),
        ("[rules]\n", "has “rules”; only [[rule]] may stand there."),
        ("rule = 7\n", "Expected `array`"),
        (f"[[rule]]\n{RULE}", "rule “a”: it has no condition, so it would decide every answer."),
        (f"[[rule]]\n{RULE}statuses = [99]\n", "status 99 is not a number from 200 to 599, nor like “4xx”"),
        (f'[[rule]]\n{RULE}phrases = ["Big"]\n', "phrases are compared in lower case"),
        (f'[[rule]]\n{RULE}statuses = [400]\nseconds_in = "x"\n', "seconds_in needs exactly one group"),
        (f'[[rule]]\n{RULE}statuses = [400]\nseconds_in = "("\n', "rule “a”: "),
        (f'[[rule]]\n{RULE}statuses = [400]\nfailures = ["tls-failed"]\n', "write two rules"),
        (f"[[rule]]\n{RULE}statuses = [400]\ncolour = 1\n", "unknown field `colour`"),
        (f"[[rule]]\n{RULE}statuses = [400]\n" * 2, "another rule of this file has the same name"),
        (f"[[rule]]\n{RULE}statuses = [400]\n".replace("slow", "suppress"), "is not for a relay's refusal"),
        ("[[rule]]\nstatuses = [400]\n", "rule number 1: "),
    ],
)
def test_a_wrong_rule_is_refused_with_its_place_and_reason(tmp_path: Path, text: str, sentence: str) -> None:
    path = _file(tmp_path, text)
    with pytest.raises(SettingWrong) as refused:
        RelayRules.load(path)
    assert sentence in str(refused.value)
    assert str(path) in str(refused.value)


def test_a_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(SettingWrong, match="cannot be read"):
        RelayRules.load(tmp_path / "none.toml")


COPY = Copy(1, 2, 3, 4, 5, 6, 7, 1, "ann@example.net", {}, int(NOW.timestamp() * 1e6))


@pytest.mark.parametrize("status", [200, 400, 500])
def test_a_judged_answer_is_not_judged_again_as_smtp(status: int) -> None:
    verdict = Verdict(False, BounceClass.RATE, Scope.RELAY, Reaction.SLOW, "relay-throttled", 5.0)
    answer = Answer(Stage.CONTENT, "relay", Reply(status, None, "words"), verdict=verdict)
    outcome, judged = judge(COPY, answer, Rules.load(), RetrySchedule(jitter=0.0), COPY.first_at, random.Random(1))
    assert judged is verdict
    assert (outcome.status, outcome.rule, outcome.text) == (Status.DEFERRED, "relay-throttled", "words")
    assert outcome.next_try == COPY.first_at + 5_000_000


def test_a_receipt_is_a_delivery() -> None:
    answer = Answer(Stage.CONTENT, "relay", Reply(202, None, "sg-abc"), remote_id="sg-abc")
    outcome, verdict = judge(COPY, answer, Rules.load(), RetrySchedule(jitter=0.0), COPY.first_at, random.Random(1))
    assert (outcome.status, outcome.text, verdict) == (Status.DELIVERED, "sg-abc", None)
