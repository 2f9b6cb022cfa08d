"""What arrives: content whole and unstuffed however it is cut, STARTTLS, sizes, and an account of every recipient."""

from __future__ import annotations

import asyncio
import ssl
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from posthouse.clock import SystemClock
from posthouse.sandbox import RecordKind, Sandbox, read_records
from posthouse.sandbox.lots import Lots
from posthouse.sandbox.manners import Manners
from posthouse.sandbox.personas import Persona
from posthouse.sandbox.post import Letter, Post
from posthouse.sandbox.records import Records
from posthouse.sandbox.smtp import Session

Dial = Callable[[Sandbox, str], Any]
RunSandbox = Callable[..., Sandbox]

LINES = st.lists(st.sampled_from([b"", b".", b"..", b".x", b"text", b"\xc3\xa4"]), max_size=12)


async def received_in_pieces(tmp_path: Path, wire: bytes, cuts: list[int], size: int = 10_000) -> list[Letter]:
    """What a session delivers when the octets of one conversation reach it cut at these places."""
    letters: list[Letter] = []
    sessions: list[Session] = []
    records = Records(tmp_path / "received.jsonl", SystemClock())
    manners = Manners(Persona("only", "only.test", size=size), Lots(1), SystemClock())
    post = Post(manners, "mx1.only.test", None, records, letters.append, Counter())

    def session() -> Session:
        sessions.append(Session(post))
        return sessions[0]

    server = await asyncio.get_running_loop().create_server(session, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    await reader.readline()
    # Straight into the session: the kernel may join pieces, this cannot.
    for start, end in pairwise(sorted({0, len(wire), *(cut % len(wire) for cut in cuts)})):
        sessions[0].data_received(wire[start:end])
    await reader.read()
    writer.close()
    server.close()
    records.close()
    return letters


def conversation(content: bytes) -> bytes:
    stuffed = content.replace(b"\r\n.", b"\r\n..")
    stuffed = b"." + stuffed if stuffed.startswith(b".") else stuffed
    envelope = b"MAIL FROM:<b@sender.example>\r\nRCPT TO:<r@only.example>\r\nDATA\r\n"
    return b"EHLO client\r\n" + 2 * (envelope + stuffed + b".\r\n") + b"QUIT\r\n"


@settings(max_examples=60, deadline=None)
@given(lines=LINES, cuts=st.lists(st.integers(0, 1000), max_size=30))
def test_content_is_the_same_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, lines: list[bytes], cuts: list[int]
) -> None:
    content = b"".join(line + b"\r\n" for line in lines)
    letters = asyncio.run(received_in_pieces(tmp_path_factory.mktemp("pieces"), conversation(content), cuts))
    assert [letter.content for letter in letters] == [content, content]
    assert {(letter.rcpt, letter.return_path) for letter in letters} == {("r@only.example", "b@sender.example")}


@settings(max_examples=20, deadline=None)
@given(cuts=st.lists(st.integers(0, 9000), max_size=30))
def test_too_much_content_is_refused_however_it_is_cut(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int]
) -> None:
    directory = tmp_path_factory.mktemp("big")
    wire = conversation(b"Message-ID: <big>\r\n\r\n" + b".23456789\r\n" * 300)
    assert asyncio.run(received_in_pieces(directory, wire, cuts, size=1000)) == []
    records = list(read_records(directory / "received.jsonl"))
    assert [(record.code, record.accepted) for record in records] == [(552, False), (552, False)]


def test_every_decision_is_written_down(run_sandbox: RunSandbox, dial: Dial) -> None:
    sandbox = run_sandbox()
    dialog = dial(sandbox, "plain")
    dialog.greet()
    dialog.send(b"MAIL FROM:<b1@sender.example>\r\nRCPT TO:<one@a.example>\r\nRCPT TO:<two@a.example>\r\nDATA\r\n")
    assert [dialog.read()[:3] for _ in range(4)] == ["250", "250", "250", "354"]
    assert dialog.say("message-id:\r\n <folded@sender.example>\r\nSubject: x\r\n\r\nHello\r\n.").startswith("250 2.0.0")
    assert dialog.mail("three@a.example", "")[-1][:3] == "250"
    too_long = f"Message-ID: <long@sender.example>\r\n\r\n{'x' * 999}\r\n."
    for line in ("MAIL FROM:<b2@sender.example>", "RCPT TO:<four@a.example>", "DATA"):
        dialog.say(line)
    assert dialog.say(too_long).startswith("550 5.6.0 Line longer")
    sandbox.stop()
    records = list(sandbox.records())
    assert [(r.rcpt, r.return_path, r.message_id, r.code, r.accepted) for r in records] == [
        ("one@a.example", "b1@sender.example", "<folded@sender.example>", 250, True),
        ("two@a.example", "b1@sender.example", "<folded@sender.example>", 250, True),
        ("three@a.example", "", "<to.three@a.example>", 250, True),
        ("four@a.example", "b2@sender.example", "<long@sender.example>", 550, False),
    ]
    assert {(r.kind, r.provider, r.withheld) for r in records} == {(RecordKind.DOT, "plain", False)}
    assert [r.mono for r in records] == sorted(r.mono for r in records)
    assert sandbox.status().accepted == {"dot": 3}
    assert sandbox.status().refused == {"dot": 1}


def test_the_hundred_and_first_recipient_is_sent_away(quiet_sandbox: Sandbox, dial: Dial) -> None:
    dialog = dial(quiet_sandbox, "plain")
    dialog.greet()
    dialog.say("MAIL FROM:<b@sender.example>")
    replies = [dialog.say(f"RCPT TO:<r{number}@a.example>")[:9] for number in range(101)]
    assert replies == ["250 2.1.5"] * 100 + ["452 4.5.3"]


def test_an_endless_command_ends_the_connection(quiet_sandbox: Sandbox, dial: Dial) -> None:
    dialog = dial(quiet_sandbox, "plain")
    dialog.greet()
    dialog.send(b"NOOP " + b"x" * 4100)
    assert dialog.read() == "500 5.5.2 Command line too long"
    assert dialog.read() == ""


def test_starttls_shows_a_certificate_of_the_sandboxs_own_authority(quiet_sandbox: Sandbox, dial: Dial) -> None:
    dialog = dial(quiet_sandbox, "plain")
    assert "STARTTLS" in dialog.greet()
    # What is sent ahead of the handshake must be forgotten (CVE-2011-0411).
    dialog.send(b"STARTTLS\r\nMAIL FROM:<injected@sender.example>\r\n")
    assert dialog.read().startswith("220 2.0.0")
    dialog.encrypt(ssl.create_default_context(cafile=quiet_sandbox.ready.ca_file), "mx1.plain-mail.test")
    assert dialog.say("MAIL FROM:<b@sender.example>").startswith("503")
    assert "STARTTLS" not in dialog.say("EHLO client.example")
    assert dialog.say("STARTTLS").startswith("502")
    assert [reply[:3] for reply in dialog.mail("r@a.example")] == ["250", "250", "354", "250"]


def test_a_failed_handshake_ends_only_that_connection(quiet_sandbox: Sandbox, dial: Dial) -> None:
    dialog = dial(quiet_sandbox, "plain")
    dialog.greet()
    dialog.say("STARTTLS")
    with pytest.raises(ssl.SSLError):
        dialog.encrypt(ssl.create_default_context(), "mx1.plain-mail.test")
    other = dial(quiet_sandbox, "plain")
    other.greet()
    assert other.mail("r@a.example")[-1][:3] == "250"


@pytest.mark.parametrize(("tls", "offered"), [("none", False), ("required", True)])
def test_tls_as_the_provider_wants_it(
    run_sandbox: RunSandbox, dial: Dial, providers: Callable[[str], Path], tls: str, offered: bool
) -> None:
    sandbox = run_sandbox(providers=providers(f'tls = "{tls}"'))
    dialog = dial(sandbox, "only")
    assert ("STARTTLS" in dialog.greet()) is offered
    if not offered:
        assert dialog.say("STARTTLS").startswith("502 5.5.1")
        assert dialog.mail("r@a.example")[-1][:3] == "250"
        return
    assert dialog.mail("r@a.example") == ["530 5.7.0 Must issue a STARTTLS command first"]
    dialog.say("STARTTLS")
    dialog.encrypt(ssl.create_default_context(cafile=sandbox.ready.ca_file), "mx1.only.test")
    dialog.say("EHLO client.example")
    assert dialog.mail("r@a.example")[-1][:3] == "250"


def test_twenty_thousand_messages_are_counted_one_by_one(run_sandbox: RunSandbox) -> None:
    sandbox = run_sandbox()
    host, port = sandbox.ready.addresses["plain"][1], sandbox.ready.smtp_port

    async def send(first: int, count: int) -> None:
        reader, writer = await asyncio.open_connection(host, port)
        content = b"Message-ID: <%d@sender.example>\r\n\r\n" + b"text\r\n" * 20 + b".\r\n"
        envelope = b"MAIL FROM:<b%d@sender.example>\r\nRCPT TO:<r%d@a.example>\r\nDATA\r\n"
        writer.write(b"EHLO client.example\r\n")
        while not (await reader.readline()).startswith(b"250 "):
            pass
        for number in range(first, first + count):
            writer.write(envelope % (number, number))
            for expected in (b"250", b"250", b"354"):
                assert (await reader.readline()).startswith(expected)
            writer.write(content % number)
            assert (await reader.readline()).startswith(b"250")
        writer.close()

    async def send_all() -> None:
        await asyncio.gather(*(send(first, 1000) for first in range(0, 20_000, 1000)))

    asyncio.run(send_all())
    sandbox.stop()
    seen = Counter((r.rcpt, r.return_path, r.message_id) for r in sandbox.records() if r.accepted)
    assert seen == {(f"r{n}@a.example", f"b{n}@sender.example", f"<{n}@sender.example>"): 1 for n in range(20_000)}
    assert sandbox.status().accepted == {"dot": 20_000}
