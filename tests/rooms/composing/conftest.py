"""What the stories of composing share: a frame, tokens, keys, and a receiver who reads with Python's own parser."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import pytest

from posthouse.composing import CompiledMessage, Composer, Draft, Frame, compile_message
from posthouse.mail.dkim import DkimSigner
from posthouse.mail.dkim_keys import dkim_record, generate_ed25519, generate_rsa
from posthouse.mail.tokens import Tokens
from posthouse.model.messages import Composed, Copy

Compile = Callable[..., CompiledMessage]
Compose = Callable[..., EmailMessage]


@pytest.fixture(scope="session")
def at() -> datetime:
    return datetime(2026, 11, 24, 9, 0, tzinfo=UTC)


@pytest.fixture(scope="session")
def frame() -> Frame:
    return Frame(
        public_url="https://mail.example.com",
        bounce_domain="bounce.example.com",
        list_id_header="Newsletter <news.example.com>",
        feedback_id="c1:w1:bulk:posthouse",
        complaints_address="fbl@example.com",
        message_id_domain="mail.example.com",
        postal_address="Post House Ltd\n1 Mail Lane & Co\nLondon",
    )


@pytest.fixture(scope="session")
def tokens() -> Tokens:
    return Tokens({1: b"k" * 32}, 1)


@pytest.fixture(scope="session")
def signers() -> list[DkimSigner]:
    return [DkimSigner("example.com", "rsa", generate_rsa()), DkimSigner("example.com", "ed", generate_ed25519())]


@pytest.fixture(scope="session")
def dns(signers: list[DkimSigner]) -> Callable[..., bytes]:
    records = {
        f"{s.selector}._domainkey.{s.domain}.".encode(): dkim_record(s._key.public_key()).encode() for s in signers
    }

    def look_up(name: bytes, timeout: int = 5) -> bytes:
        return records[name]

    return look_up


@pytest.fixture(scope="session")
def compiled(frame: Frame) -> Compile:
    """Compile a draft of which only what matters to the story is given."""

    def make(**given: Any) -> CompiledMessage:
        draft = {"subject": "News", "from_address": "news@example.com", "track_opens": False, **given}
        return compile_message(Draft(**draft), frame)

    return make


@pytest.fixture(scope="session")
def copy_for() -> Callable[..., Copy]:
    def make(email: str = "jane@example.org", /, **fields: Any) -> Copy:
        return Copy(3, 9876543, 120, 1234567, 45, 1, 1, 1, email, fields, 0)

    return make


@pytest.fixture(scope="session")
def composed(frame: Frame, tokens: Tokens, at: datetime, copy_for: Callable[..., Copy]) -> Callable[..., Composed]:
    """An unsigned message as it goes on the wire."""

    def make(compiled: CompiledMessage, **fields: Any) -> Composed:
        result = Composer(compiled, frame, [], tokens).compose(copy_for(**fields), at)
        assert isinstance(result, Composed), result
        return result

    return make


@pytest.fixture(scope="session")
def received(composed: Callable[..., Composed]) -> Compose:
    """The message as a receiver reads it."""

    def make(compiled: CompiledMessage, **fields: Any) -> EmailMessage:
        return read(composed(compiled, **fields).content)

    return make


def read(content: bytes) -> EmailMessage:
    message = message_from_bytes(content, policy=default)
    assert isinstance(message, EmailMessage)
    return message


@pytest.fixture(scope="session")
def text_of() -> Callable[[EmailMessage], str]:
    return lambda message: _part(message, "plain")


@pytest.fixture(scope="session")
def html_of() -> Callable[[EmailMessage], str]:
    return lambda message: _part(message, "html")


def _part(message: EmailMessage, kind: str) -> str:
    part = message.get_body((kind,))
    assert part is not None
    return str(part.get_content()).replace("\r\n", "\n")
