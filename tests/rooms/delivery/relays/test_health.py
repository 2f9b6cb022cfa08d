"""Outages and their end."""

from __future__ import annotations

import pytest

from posthouse.delivery import Answer
from posthouse.delivery.relays import Condition, Health, Tolerance, is_outage
from posthouse.delivery.relays.health import DIRECT_TOLERANCE, RELAY_TOLERANCE
from posthouse.mail.replies import Failure, Rules, Stage, parse_reply
from posthouse.model.outcomes import BounceClass, Scope

RULES = Rules.load()
THREE = Tolerance(failures=3, window=60.0, first_pause=30.0, longest_pause=100.0, probe=20.0)


def _down(health: Health, at: float = 0.0) -> Health:
    for _ in range(3):
        health = health.failed(at, 1)
    return health


def test_failures_in_a_row_within_the_window_are_an_outage() -> None:
    health = Health(THREE)
    assert health.condition(0.0) is Condition.HEALTHY
    assert health.failed(0.0, 1).failed(1.0, 1).condition(1.0) is Condition.HEALTHY
    assert _down(health).condition(0.0) is Condition.OUTAGE
    assert health.failed(0.0, 1).failed(1.0, 1).succeeded(2.0).failed(3.0, 1).condition(3.0) is Condition.HEALTHY
    assert health.failed(0.0, 1).failed(50.0, 1).failed(61.0, 1).condition(61.0) is Condition.HEALTHY


def test_one_probe_at_a_time_with_growing_pauses_until_one_succeeds() -> None:
    health = _down(Health(THREE))
    assert health.condition(29.9) is Condition.OUTAGE
    assert health.probe_began(29.9) == health
    assert health.condition(30.0) is Condition.PROBE_DUE
    health = health.probe_began(30.0)
    assert health.condition(30.1) is Condition.PROBING
    health = health.failed(31.0, 1)
    assert (health.condition(31.0), health.condition(90.9)) == (Condition.OUTAGE, Condition.OUTAGE)
    health = health.probe_began(91.0).failed(92.0, 1)
    assert (health.condition(191.9), health.condition(192.0)) == (
        Condition.OUTAGE,
        Condition.PROBE_DUE,
    )  # never over 100 s
    health = health.probe_began(192.0).succeeded(193.0)
    assert health.condition(193.0) is Condition.HEALTHY


def test_a_relapse_goes_on_with_its_pauses_and_a_long_health_forgets_them() -> None:
    back = _down(Health(THREE)).probe_began(30.0).succeeded(31.0)
    assert _down(back, 40.0).condition(40.0 + 59.0) is Condition.OUTAGE
    assert _down(back, 140.0).condition(140.0 + 30.0) is Condition.PROBE_DUE


def test_stragglers_of_an_outage_change_nothing() -> None:
    health = _down(Health(THREE))
    assert health.failed(1.0, 1) == health
    assert health.succeeded(1.0) == health


def test_a_lost_probe_is_repeated() -> None:
    health = _down(Health(THREE)).probe_began(30.0)
    assert (health.condition(49.9), health.condition(50.0)) == (Condition.PROBING, Condition.PROBE_DUE)


def test_one_providers_trouble_is_not_a_direct_sources() -> None:
    health = Health(DIRECT_TOLERANCE)
    for _ in range(1000):
        health = health.failed(0.0, 7)
    assert health.condition(0.0) is Condition.HEALTHY
    assert len(health.failures) < 20  # what is kept does not grow with the trouble
    assert health.failed(0.0, 8).condition(0.0) is Condition.HEALTHY
    assert health.failed(0.0, 8).failed(0.0, 9).condition(0.0) is Condition.OUTAGE
    assert _down(_down(Health(RELAY_TOLERANCE))).condition(0.0) is Condition.OUTAGE


@pytest.mark.parametrize(
    ("stage", "line", "outage"),
    [
        (Stage.GREETING, "421 4.3.2 Service not available, closing transmission channel", True),
        (Stage.EHLO, "421 4.3.0 Temporary server error", True),
        (Stage.AUTH, "454 4.7.0 Temporary authentication failure", False),
        (Stage.RCPT, "451 4.3.0 Temporary server error", False),
        (
            Stage.GREETING,
            "421 4.7.0 [TSS04] Messages from 192.0.2.1 temporarily deferred due to user complaints",
            False,
        ),
        (Stage.GREETING, "554 5.7.1 Service unavailable; client [192.0.2.1] blocked using a blocklist", False),
        # RFC 5321 §3.8: without other words 421 says that the service is closing, which is nobody's reputation.
        (Stage.GREETING, "421 a wording that nobody knows", True),
        (Stage.RCPT, "450 4.2.0 Greylisted, please try again later", False),
        (Stage.CONTENT, "421 4.7.28 Our system has detected an unusual rate of unsolicited mail", False),
    ],
)
def test_what_a_server_says_before_mail_is_an_outage_unless_it_is_about_us(
    stage: Stage, line: str, outage: bool
) -> None:
    reply = parse_reply([line.encode()])
    verdict = RULES.interpret(reply, stage, None)
    assert is_outage(Answer(stage, "mx", reply), verdict) is outage, verdict


@pytest.mark.parametrize("failure", Failure, ids=str)
def test_a_failure_is_an_outage_when_the_way_is_broken(failure: Failure) -> None:
    verdict = RULES.interpret_failure(failure, Stage.CONNECT)
    outage = is_outage(Answer(Stage.CONNECT, "mx", failure=failure), verdict)
    assert outage == (
        failure
        in (
            Failure.CONNECT_REFUSED,
            Failure.CONNECT_TIMEOUT,
            Failure.CONNECT_UNREACHABLE,
            Failure.CONNECTION_LOST,
            Failure.REPLY_TIMEOUT,
            Failure.DNS_TEMPORARY,
            Failure.TLS_FAILED,
            Failure.TLS_REQUIRED,
        )
    )
    assert verdict.scope is not Scope.RELAY
    assert verdict.bounce_class is not BounceClass.REPUTATION
