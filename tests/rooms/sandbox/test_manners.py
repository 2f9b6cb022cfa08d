"""Each provider's manner, met in a real conversation; time is a shared clock that the test moves."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from posthouse.clock import JumpingClock
from posthouse.sandbox import RecordKind, Sandbox, SandboxUnavailable
from posthouse.sandbox.lots import Lots
from posthouse.sandbox.manners import answer
from posthouse.sandbox.moments import SECOND
from posthouse.sandbox.personas import Homes, load_personas
from posthouse.sandbox.throttle import Throttle

Dial = Callable[[Sandbox, str], Any]
RunSandbox = Callable[..., Sandbox]
Providers = Callable[[str], Path]


@pytest.fixture
def clock(tmp_path: Path) -> JumpingClock:
    return JumpingClock(tmp_path / "clock")


def jump(clock: JumpingClock, seconds: float) -> None:
    clock.jump_to(clock.now() + timedelta(seconds=seconds))


def until_refused(dial: Dial, sandbox: Sandbox, provider: str, code: str) -> str:
    """Send, on as many connections as it takes, until a reply begins with a code: that reply."""
    for number in range(500):
        dialog = dial(sandbox, provider)
        dialog.greet()
        for nth in range(10):
            reply = str(dialog.mail(f"r{number}.{nth}@a.example")[-1])
            if reply.startswith(code):
                return reply
            if reply.startswith("421"):
                break
    raise AssertionError(f"{provider} never said {code}")


def test_gmail_like_slows_a_source_down_after_the_content_and_forgives(
    run_sandbox: RunSandbox, dial: Dial, clock: JumpingClock, tmp_path: Path
) -> None:
    sandbox = run_sandbox(clock_file=tmp_path / "clock", rate_scale=0.02)
    reply = until_refused(dial, sandbox, "gmail-like", "421")
    assert reply.startswith("421-4.7.28 Gmail has detected an unusual rate")
    assert reply.splitlines()[-1].startswith("421 4.7.28 mail sent from your IP address has been temporarily")
    assert "[127.0.0.1]" in reply
    jump(clock, 61)
    dialog = dial(sandbox, "gmail-like")
    dialog.greet()
    assert [dialog.mail(f"r{n}@a.example")[-1][:3] for n in range(3)] == ["250"] * 3
    sandbox.stop()
    refused = [r for r in sandbox.records() if r.code == 421]
    assert {(r.kind, r.accepted) for r in refused} == {(RecordKind.DOT, False)}
    assert refused[0].rcpt


def test_yahoo_like_takes_twenty_a_connection_and_defers_at_mail(run_sandbox: RunSandbox, dial: Dial) -> None:
    sandbox = run_sandbox(rate_scale=0.08)
    dialog = dial(sandbox, "yahoo-like")
    dialog.greet()
    for _ in range(20):
        assert dialog.say("MAIL FROM:<b@sender.example>") == "250 2.1.0 Sender OK"
        dialog.say("RSET")
    last = dialog.say("MAIL FROM:<b@sender.example>")
    assert last == "421 Max message per connection reached closing transmission channel"
    assert dialog.read() == ""
    reply = until_refused(dial, sandbox, "yahoo-like", "421 4.7.0")
    assert reply.startswith("421 4.7.0 [TSS04] Messages from 127.0.0.1 temporarily deferred")
    sandbox.stop()
    assert Counter(r.kind for r in sandbox.records() if r.code == 421)[RecordKind.MAIL] >= 2


def test_outlook_like_asks_first_and_blocks_those_who_do_not_listen(
    run_sandbox: RunSandbox, dial: Dial, clock: JumpingClock, tmp_path: Path
) -> None:
    sandbox = run_sandbox(clock_file=tmp_path / "clock", rate_scale=0.004)
    dialog = dial(sandbox, "outlook-like")
    dialog.greet()
    while (reply := dialog.say("MAIL FROM:<b@sender.example>")).startswith("250"):
        dialog.say("RSET")
    polite = [reply]
    while not polite[-1].startswith("550"):
        polite.append(dialog.say("MAIL FROM:<b@sender.example>"))
    assert "(S775)" in polite[0]
    assert set(polite[:100]) == {polite[0]}
    assert len(polite) == 101
    assert "block list (S3150)" in polite[-1]
    jump(clock, 3600)
    assert "(S3150)" in dialog.say("MAIL FROM:<b@sender.example>")
    jump(clock, 3601)
    assert dialog.say("MAIL FROM:<b@sender.example>").startswith("250")


def test_outlook_like_forgives_those_who_slow_down(
    run_sandbox: RunSandbox, dial: Dial, clock: JumpingClock, tmp_path: Path
) -> None:
    sandbox = run_sandbox(clock_file=tmp_path / "clock", rate_scale=0.0001)
    dialog = dial(sandbox, "outlook-like")
    dialog.greet()
    dialog.say("MAIL FROM:<b@sender.example>")
    dialog.say("RSET")
    for _ in range(8):
        assert {"(S775)" in dialog.say("MAIL FROM:<b@sender.example>") for _ in range(60)} == {True}
        jump(clock, 901)
        assert dialog.say("MAIL FROM:<b@sender.example>").startswith("250")
        dialog.say("RSET")


def test_outlook_like_counts_connections(run_sandbox: RunSandbox, dial: Dial) -> None:
    sandbox = run_sandbox()
    dialogs = [dial(sandbox, "outlook-like") for _ in range(21)]
    greetings = [dialog.read()[:11] for dialog in dialogs]
    assert sorted(greetings)[-1] == "421 4.7.652"
    assert greetings.count("421 4.7.652") == 1
    dialogs[0].say("QUIT")
    assert dialogs[0].read() == ""
    assert dial(sandbox, "outlook-like").read()[:3] == "220"


def test_greylister_takes_a_stranger_who_comes_back(
    run_sandbox: RunSandbox, dial: Dial, clock: JumpingClock, tmp_path: Path
) -> None:
    sandbox = run_sandbox(clock_file=tmp_path / "clock")
    dialog = dial(sandbox, "greylister")
    dialog.greet()
    for wait in (0, 0, 200):
        jump(clock, wait)
        assert dialog.mail("r@a.example", "b.1@sender.example")[-1].startswith("450 4.2.0 <r@a.example>: Recipient")
        dialog.say("RSET")
    jump(clock, 400)
    assert dialog.mail("r@a.example", "b.2@sender.example")[-1][:3] == "250"
    assert dialog.mail("other@a.example")[-1][:3] == "450"
    sandbox.stop()
    assert [(r.kind, r.code) for r in sandbox.records()][:3] == [(RecordKind.RCPT, 450)] * 3


def test_mailboxes_that_take_no_mail_are_the_same_in_every_run_of_a_seed(run_sandbox: RunSandbox, dial: Dial) -> None:
    def refusals(sandbox: Sandbox) -> dict[str, str]:
        dialog = dial(sandbox, "mailboxes")
        dialog.greet()
        dialog.say("MAIL FROM:<b@sender.example>")
        replies = {}
        for number in range(700):
            if number % 90 == 0:
                dialog.say("RSET")
                dialog.say("MAIL FROM:<b@sender.example>")
            replies[f"r{number}"] = dialog.say(f"RCPT TO:<r{number}@a.example>")[:9]
        return replies

    sandbox = run_sandbox()
    first = refusals(sandbox)
    sandbox.stop()
    counts = Counter(first.values())
    assert set(counts) == {"250 2.1.5", "550 5.1.1", "452 4.2.2", "550 5.2.1"}
    assert 10 <= counts["550 5.1.1"] <= 55
    assert refusals(run_sandbox()) == first
    assert refusals(run_sandbox(seed=2)) != first


def test_dropper_cuts_connections_at_every_point_and_keeps_nothing_it_did_not_answer(
    run_sandbox: RunSandbox, dial: Dial, providers: Providers
) -> None:
    sandbox = run_sandbox(providers=providers("[drop]\nshare = 0.5"))
    ends: Counter[int] = Counter()
    accepted = set()
    for number in range(80):
        dialog = dial(sandbox, "only")
        dialog.greet()
        replies = dialog.mail(f"r{number}@a.example")
        ends[len(replies) if replies[-1] == "" else 0] += 1
        if replies[-1]:
            accepted.add(f"r{number}@a.example")
    sandbox.stop()
    # A lost reply to RCPT, to DATA, and to the final dot or while the content was on its way.
    assert {0, 2, 3, 4} <= set(ends)
    assert 20 < ends[0] < 60
    assert {r.rcpt for r in sandbox.records() if r.accepted} == accepted
    assert sum(r.kind is RecordKind.DROPPED for r in sandbox.records()) == 80 - ends[0]


def test_dropper_lets_a_message_through_in_the_end(run_sandbox: RunSandbox, dial: Dial, providers: Providers) -> None:
    sandbox = run_sandbox(providers=providers("[drop]\nshare = 0.5"))
    for number in range(10):
        replies = [""]
        while not replies[-1]:
            dialog = dial(sandbox, "only")
            dialog.greet()
            replies = dialog.mail(f"r{number}@a.example")
        assert replies[-1][:3] == "250"


def test_slow_keeps_each_reply_back_and_loses_none(run_sandbox: RunSandbox, dial: Dial, providers: Providers) -> None:
    sandbox = run_sandbox(providers=providers("[slow]\nleast_seconds = 0.02\nmost_seconds = 0.03"))
    dialog = dial(sandbox, "only")
    dialog.greet()
    dialog.send(b"MAIL FROM:<b@sender.example>\r\nRCPT TO:<r@a.example>\r\nDATA\r\n")
    assert [dialog.read()[:3] for _ in range(3)] == ["250", "250", "354"]
    assert dialog.say("Subject: x\r\n\r\nHello\r\n.")[:3] == "250"
    assert dialog.mail("r2@a.example")[-1][:3] == "250"
    assert dialog.say("QUIT")[:3] == "221"
    assert dialog.read() == ""
    sandbox.stop()
    assert [r.rcpt for r in sandbox.records()] == ["r@a.example", "r2@a.example"]


def test_an_answer_to_a_client_that_has_left_counts_as_withheld(
    run_sandbox: RunSandbox, dial: Dial, providers: Providers, eventually: Callable[[Callable[[], bool]], None]
) -> None:
    sandbox = run_sandbox(providers=providers("[slow]\nleast_seconds = 0.4\nmost_seconds = 0.5"))
    dialog = dial(sandbox, "only")
    dialog.greet()
    for line in ("MAIL FROM:<b@sender.example>", "RCPT TO:<r@a.example>", "DATA"):
        dialog.say(line)
    dialog.send(b"Subject: x\r\n\r\nHello\r\n.\r\n")
    dialog.close()
    eventually(lambda: bool(sandbox.status().accepted))
    sandbox.stop()
    assert [(r.accepted, r.withheld) for r in sandbox.records()] == [(True, True)]


def test_slow_really_waits(run_sandbox: RunSandbox, dial: Dial, providers: Providers) -> None:
    dialog = dial(run_sandbox(providers=providers("[slow]\nleast_seconds = 600\nmost_seconds = 601")), "only")
    dialog.socket.settimeout(0.3)
    with pytest.raises(TimeoutError):
        dialog.read()


def test_a_provider_that_stops_reading(run_sandbox: RunSandbox, dial: Dial, providers: Providers) -> None:
    sandbox = run_sandbox(providers=providers("[stall]\nshare = 1.0"))
    dialog = dial(sandbox, "only")
    dialog.greet()
    assert [dialog.say(line)[:3] for line in ("MAIL FROM:<b@sender.example>", "RCPT TO:<r@a.example>", "DATA")] == [
        "250",
        "250",
        "354",
    ]
    dialog.socket.settimeout(0.3)
    dialog.send(b"Subject: x\r\n\r\n")
    with pytest.raises(TimeoutError):
        # More than the buffers of both kernels hold.
        dialog.send(b"text\r\n" * 10_000_000)
    sandbox.stop()
    assert list(sandbox.records()) == []


def test_a_withheld_answer_is_written_down_as_such(run_sandbox: RunSandbox, dial: Dial) -> None:
    sandbox = run_sandbox(withhold=0.5)
    heard = set()
    for number in range(40):
        dialog = dial(sandbox, "plain")
        dialog.greet()
        replies = dialog.mail(f"r{number}@a.example")
        assert len(replies) == 4
        if replies[-1]:
            heard.add(f"r{number}@a.example")
    sandbox.stop()
    records = list(sandbox.records())
    assert {r.rcpt for r in records if not r.withheld} == heard
    assert {r.accepted for r in records} == {True}
    assert 5 < len(heard) < 35


def test_limits_are_drawn_by_the_seed_around_the_files_value() -> None:
    (gmail,) = [persona for persona in load_personas() if persona.name == "gmail-like"]
    assert gmail.rate is not None

    def limits(seed: int) -> list[float]:
        assert gmail.rate is not None
        throttle = Throttle(gmail.name, gmail.rate, Lots(seed), 1.0, 0)
        return [throttle.limit(hour * 3600 * SECOND) for hour in range(50)]

    assert limits(1) == limits(1)
    assert limits(1) != limits(2)
    drawn = limits(1)
    assert 700 <= min(drawn) < 850 < 1150 < max(drawn) <= 1300


def test_homes_follow_the_weights() -> None:
    personas = load_personas()
    homes = Homes(personas, Lots(7))
    counts = Counter(homes.of(f"company{number}.example").name for number in range(4000))
    total = sum(persona.weight for persona in personas)
    for persona in personas:
        assert abs(counts[persona.name] / 4000 - persona.weight / total) < 0.03, persona.name


def test_a_reply_of_several_lines_marks_all_but_the_last() -> None:
    assert answer(421, "4.7.0", "one\none\n").wire == b"421-4.7.0 one\r\n421 4.7.0 one\r\n"
    assert answer(450, "", "one").wire == b"450 one\r\n"
    assert (answer(421, "", "x").closes, answer(450, "", "x").closes) == (True, False)


def test_a_wrong_provider_file_is_named(run_sandbox: RunSandbox, providers: Providers) -> None:
    with pytest.raises(SandboxUnavailable, match=r"only.toml cannot be used: Object contains unknown field `slowness`"):
        run_sandbox(providers=providers("slowness = 3"))


def test_a_provider_limits_what_one_domain_signs_whatever_source_it_comes_from(
    run_sandbox: RunSandbox, dial: Dial, tmp_path: Path
) -> None:
    providers = tmp_path / "signers"
    providers.mkdir()
    (providers / "only.toml").write_text(
        'name = "only"\ndomain = "only.test"\nweight = 1\n[[signers]]\ndomain = "loud.example"\nmessages = 1\n'
        'per_seconds = 10000\n[signers.reply]\ncode = 421\nstatus = "4.7.28"\ntext = "your DKIM domain [{domain} 35]"\n'
    )
    sandbox = run_sandbox(providers=providers)

    def last_reply(signature: str) -> str:
        dialog = dial(sandbox, "only")
        dialog.greet()
        for line in ("MAIL FROM:<b@sender.example>", "RCPT TO:<p@only.test>", "DATA"):
            dialog.say(line)
        return str(dialog.say(f"{signature}\r\nFrom: a@sender.example\r\n\r\nDKIM-Signature: d=loud.example\r\n."))

    loud = "DKIM-Signature: v=1; a=rsa-sha256;\r\n\td=Loud.example; s=x"
    assert last_reply(loud)[:3] == "250"
    assert last_reply(loud) == "421 4.7.28 your DKIM domain [loud.example 35]"
    assert last_reply("DKIM-Signature: v=1; d=calm.example; s=x")[:3] == "250"
    assert last_reply("Subject: x")[:3] == "250"
