"""The SMTP door over real sockets: conversations as scripts, pieces of any size, slow and many peers, STARTTLS, an orderly end."""

from __future__ import annotations

import asyncio
import codecs
import smtplib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from itertools import pairwise
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import uvloop
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from posthouse.doors.smtpd import Admission, InboundDoor, Limits
from posthouse.doors.smtpd.content import Incoming, has_bare_line_ends

DIALOGS = sorted((Path(__file__).parents[2] / "dialogs").glob("*.smtp"))
KNOWN = {"bounce@example.com", "abuse@example.com", "postmaster@example.com", "postmaster", "jörg@example.com"}
Message = tuple[str, list[str], bytes]


class House:
    """What stands behind the door: known addresses and a store that can break or be slow."""

    def __init__(self) -> None:
        self.taken: list[Message] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.asked_to_take = asyncio.Event()

    async def accept(self, address: str) -> Admission:
        if address.startswith("unanswered"):
            raise ConnectionError
        if not address.endswith("@example.com") and address != "postmaster":
            return Admission.NOT_OURS
        return Admission.TAKEN if address in KNOWN else Admission.UNKNOWN

    async def take(self, return_path: str, recipients: list[str], content: bytes) -> None:
        self.asked_to_take.set()
        await self.gate.wait()
        if return_path.startswith("broken"):
            raise ConnectionError
        self.taken.append((return_path, recipients, content))


@asynccontextmanager
async def opened(tls: ssl.SSLContext | None = None, **limits: float) -> AsyncIterator[tuple[House, InboundDoor]]:
    house = House()
    door = InboundDoor(
        "mx.example.com", house.accept, house.take, msgspec.convert({"max_bytes": 1000, **limits}, Limits), tls
    )
    await door.start()
    try:
        yield house, door
    finally:
        await door.stop()


async def connect(door: InboundDoor) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection("127.0.0.1", door.port)


async def line_of(reader: asyncio.StreamReader) -> str:
    async with asyncio.timeout(10):
        return (await reader.readline()).decode().removesuffix("\r\n") or "<closed>"


def unescaped(text: str) -> bytes:
    return codecs.escape_decode(text.encode())[0]


# ── Conversations as scripts ──


@pytest.mark.parametrize("path", DIALOGS, ids=lambda path: path.stem)
async def test_dialog(path: Path) -> None:
    script = [line.partition(":")[::2] for line in path.read_text().splitlines() if line and not line.startswith("#")]
    limits: dict[str, Any] = {
        name: int(value)
        for kind, text in script
        if kind == "d"
        for name, _, value in [p.partition("=") for p in text.split()]
    }
    kept: list[Message] = []
    async with opened(**limits) as (house, door):
        reader, writer = await connect(door)
        for kind, text in script:
            match kind:
                case "c":
                    writer.write(text.removeprefix(" ").encode() + b"\r\n")
                case "r":
                    writer.write(unescaped(text.removeprefix(" ")))
                case "s":
                    assert await line_of(reader) == text.strip()
                case "k":
                    return_path, recipients, content = (part.strip(" ") for part in text.split("|"))
                    kept.append((return_path, recipients.split(","), unescaped(content)))
                case other:
                    assert other == "d"
        writer.close()
    assert house.taken == kept


def test_every_dialog_is_found() -> None:
    assert len(DIALOGS) >= 11


# ── Pieces of any size ──

CONVERSATION = (
    b"EHLO a\r\nMAIL FROM:<a@example.net>\r\nRCPT TO:<bounce@example.com>\r\nDATA\r\n..one\r\n.two\r\n\r\n.\r\n"
    b"MAIL FROM:<>\r\nRCPT TO:<nobody@example.com>\r\nRCPT TO:<abuse@example.com>\r\nDATA\r\nx\r\n.\r\nQUIT\r\n"
)
EXPECTED = [("a@example.net", ["bounce@example.com"], b".one\r\ntwo\r\n\r\n"), ("", ["abuse@example.com"], b"x\r\n")]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, len(CONVERSATION) - 1), max_size=30))
def test_the_result_is_the_same_in_pieces_of_any_size(cuts: list[int]) -> None:
    async def talk() -> tuple[bytes, list[Message]]:
        async with opened() as (house, door):
            reader, writer = await connect(door)
            edges = [0, *sorted(set(cuts)), len(CONVERSATION)]
            for start, end in pairwise(edges):
                writer.write(CONVERSATION[start:end])
                await asyncio.sleep(0)
            answers = await reader.read()
            writer.close()
            return answers, house.taken

    answers, taken = uvloop.run(talk())
    assert taken == EXPECTED
    assert [line[:3] for line in answers.splitlines()] == (
        [b"220"] + [b"250"] * 6 + [b"250", b"250", b"354", b"250"] + [b"250", b"550", b"250", b"354", b"250", b"221"]
    )


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b".", b"x", b"\r\n", b"\r\n."]), max_size=30),
    st.lists(st.integers(0, 60), max_size=5),
)
def test_content_ends_at_crlf_dot_crlf_and_nowhere_else(pieces: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(pieces) + b"\r\n.\r\nREST"
    padded = b"\r\n" + stream
    end = padded.index(b"\r\n.\r\n")
    incoming = Incoming(1000)
    rest = None
    edges = [0, *sorted({cut for cut in cuts if cut < len(stream)}), len(stream)]
    for start, stop in pairwise(edges):
        rest = incoming.feed(stream[start:stop]) if rest is None else rest + stream[start:stop]
    assert rest == padded[end + 5 :]
    assert incoming.content() == padded[: end + 2].replace(b"\r\n.", b"\r\n")[2:]


@pytest.mark.parametrize(
    ("content", "bare"),
    [
        (b"", False),
        (b"a\r\n", False),
        (b"a\n", True),
        (b"a\r", True),
        (b"\n\r", True),
        (b"a\r\r\n", True),
        (b"a\r\n\n", True),
    ],
)
def test_line_ends_that_stand_alone_are_seen(content: bytes, bare: bool) -> None:
    assert has_bare_line_ends(content) is bare


# ── Accepted means committed ──


async def test_the_250_comes_only_after_the_mail_was_taken() -> None:
    async with opened() as (house, door):
        house.gate.clear()
        reader, writer = await connect(door)
        writer.write(b"HELO a\r\nMAIL FROM:<>\r\nRCPT TO:<bounce@example.com>\r\nDATA\r\nx\r\n.\r\nNOOP\r\n")
        assert [(await line_of(reader))[:3] for _ in range(5)] == ["220", "250", "250", "250", "354"]
        await house.asked_to_take.wait()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(reader.readline(), 0.1)
        house.gate.set()
        assert await line_of(reader) == "250 2.0.0 Taken"
        assert len(house.taken) == 1
        writer.close()


async def test_a_store_that_does_not_answer_is_a_451() -> None:
    async with opened(take_seconds=0.1) as (house, door):
        house.gate.clear()
        reader, writer = await connect(door)
        writer.write(b"HELO a\r\nMAIL FROM:<>\r\nRCPT TO:<bounce@example.com>\r\nDATA\r\nx\r\n.\r\n")
        assert [await line_of(reader) for _ in range(6)][-1] == "451 4.3.0 Please try again later"
        writer.close()


async def test_a_peer_that_leaves_in_the_middle_leaves_nothing() -> None:
    async with opened() as (house, door):
        _, writer = await connect(door)
        writer.write(b"HELO a\r\nMAIL FROM:<>\r\nRCPT TO:<bounce@example.com>\r\nDATA\r\nx\r\n.\r")
        writer.close()
        await writer.wait_closed()
    assert house.taken == []


async def test_a_message_in_a_circle_is_refused() -> None:
    async with opened(max_bytes=10_000) as (house, door):
        reader, writer = await connect(door)
        writer.write(
            b"HELO a\r\nMAIL FROM:<>\r\nRCPT TO:<bounce@example.com>\r\nDATA\r\n"
            + b"Received: x\r\n" * 101
            + b"\r\n.\r\n"
        )
        assert [await line_of(reader) for _ in range(6)][-1] == "554 5.4.6 The message goes in circles"
        writer.close()
    assert house.taken == []


# ── Slow, greedy and many peers ──


@pytest.mark.parametrize(
    "start", [b"", b"EHL", b"HELO a\r\nMAIL FROM:<>\r\nRCPT TO:<bounce@example.com>\r\nDATA\r\nSubj"]
)
async def test_a_slow_peer_is_sent_away(start: bytes) -> None:
    async with opened(command_seconds=0.2, content_seconds=0.2) as (_, door):
        reader, writer = await connect(door)
        writer.write(start)
        async with asyncio.timeout(10):
            answers = (await reader.read()).splitlines()
        assert answers[-1] == b"421 4.4.2 You are too slow"
        writer.close()


async def _write_for_ever(writer: asyncio.StreamWriter) -> None:
    async with asyncio.timeout(30):
        while True:
            writer.write(b"VRFY x\r\n" * 5000)
            await writer.drain()


async def test_a_peer_that_does_not_read_is_cut_off() -> None:
    async with opened(command_seconds=0.3, close_seconds=0.1, max_errors=10**9) as (_, door):
        _, writer = await connect(door)
        transport = writer.transport
        cast(asyncio.Transport, transport).pause_reading()
        with pytest.raises(ConnectionError):
            await _write_for_ever(writer)


async def test_an_endless_line_is_refused() -> None:
    async with opened() as (_, door):
        reader, writer = await connect(door)
        writer.write(b"NOOP " + b"x" * 5000)
        assert [(await line_of(reader))[:9] for _ in range(2)] == ["220 mx.ex", "500 5.5.2"]
        writer.close()


async def test_one_address_has_a_limited_number_of_connections() -> None:
    async with opened(max_connections_per_address=2) as (_, door):
        first, second, third = [await connect(door) for _ in range(3)]
        assert (await line_of(third[0])).startswith("421 4.7.0")
        assert await line_of(third[0]) == "<closed>"
        assert (await line_of(first[0])).startswith("220")
        first[1].write(b"QUIT\r\n")
        assert [await line_of(first[0]), await line_of(first[0])] == ["221 2.0.0 Goodbye", "<closed>"]
        first[1].close()
        await first[1].wait_closed()
        again = await connect(door)
        assert (await line_of(again[0])).startswith("220")
        for _, writer in (second, third, again):
            writer.close()


async def test_all_peers_together_are_limited_too() -> None:
    async with opened(max_connections=1) as (_, door):
        _, first = await connect(door)
        reader, second = await connect(door)
        assert (await line_of(reader)).startswith("421 4.7.0")
        first.close()
        second.close()


# ── The end ──


async def test_stopping_sends_the_idle_away_and_lets_a_message_finish() -> None:
    async with opened() as (house, door):
        idle, idle_writer = await connect(door)
        assert (await line_of(idle)).startswith("220")
        house.gate.clear()
        busy, busy_writer = await connect(door)
        busy_writer.write(b"HELO a\r\nMAIL FROM:<>\r\nRCPT TO:<bounce@example.com>\r\nDATA\r\nx\r\n.\r\n")
        await house.asked_to_take.wait()
        port = door.port
        stopping = asyncio.create_task(door.stop())
        assert (await line_of(idle)).startswith("421 4.3.2")
        house.gate.set()
        answers = [await line_of(busy) for _ in range(8)]
        assert answers[-3:] == ["250 2.0.0 Taken", "421 4.3.2 Closing for a moment, please come back", "<closed>"]
        await stopping
        with pytest.raises(ConnectionError):
            await asyncio.open_connection("127.0.0.1", port)
        idle_writer.close()
        busy_writer.close()
    assert len(house.taken) == 1


# ── STARTTLS ──


@pytest.fixture(scope="module")
def server_tls(tmp_path_factory: pytest.TempPathFactory) -> ssl.SSLContext:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)  # noqa: TID251 -- a certificate for the real TLS library
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


async def test_another_implementations_client_delivers_under_starttls(server_tls: ssl.SSLContext) -> None:
    message = EmailMessage()
    message["Subject"] = "Undelivered"
    message.set_content("One\n.two\n")

    def send(port: int) -> dict[str, tuple[int, bytes]]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        with smtplib.SMTP("127.0.0.1", port, timeout=10) as client:
            client.starttls(context=context)
            client.ehlo()
            assert not client.has_extn("starttls")
            return client.send_message(message, "a@example.net", ["bounce@example.com", "nobody@example.com"])

    async with opened(server_tls) as (house, door):
        refused = await asyncio.to_thread(send, door.port)
    assert refused == {"nobody@example.com": (550, b"5.1.1 There is no such mailbox here")}
    ((return_path, recipients, content),) = house.taken
    assert (return_path, recipients) == ("a@example.net", ["bounce@example.com"])
    assert content.endswith(b"\r\n\r\nOne\r\n.two\r\n")


async def test_what_was_said_in_the_clear_behind_starttls_is_dropped(server_tls: ssl.SSLContext) -> None:
    """RFC 3207 §4.2: neither commands injected before the handshake nor the greeting survive it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with opened(server_tls) as (house, door):
        reader, writer = await connect(door)
        writer.write(b"EHLO a\r\nSTARTTLS\r\nMAIL FROM:<x@example.net>\r\n")
        answers = [await line_of(reader) for _ in range(9)]
        assert answers[-2:] == ["250 STARTTLS", "220 2.0.0 Go ahead"]
        await writer.start_tls(context)
        writer.write(b"MAIL FROM:<a@example.net>\r\nSTARTTLS\r\n")
        assert await line_of(reader) == "503 5.5.1 Say EHLO first"
        assert await line_of(reader) == "503 5.5.1 STARTTLS is not offered"
        writer.close()
    assert house.taken == []


async def test_a_handshake_that_fails_ends_the_connection_quietly(server_tls: ssl.SSLContext) -> None:
    async with opened(server_tls) as (_, door):
        reader, writer = await connect(door)
        writer.write(b"EHLO a\r\nSTARTTLS\r\n")
        for _ in range(9):
            await line_of(reader)
        writer.write(b"this is no handshake\r\n" * 10)
        async with asyncio.timeout(10):
            await reader.read()
        writer.close()
