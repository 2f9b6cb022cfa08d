"""Tokens come back as what they were made of, and no change to one goes unseen."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from posthouse.mail.tokens import Purpose, Subject, Tokens
from posthouse.model.errors import TokenWrong

TOKENS = Tokens({7: b"k" * 32, 200: b"q" * 32}, 200)
IDS = st.one_of(st.integers(0, 300), st.integers(0, 2**63 - 1))
SUBJECTS = st.builds(Subject, *[IDS] * 5)
# A million workspaces, as many lists and campaigns as an integer column holds, a trillion contacts and messages.
ORDINARY = st.builds(
    Subject,
    st.integers(1, 2**20),
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**31 - 1),
    st.integers(1, 2**40),
    st.integers(1, 2**40),
)


@given(subject=SUBJECTS, purpose=st.sampled_from(list(Purpose)))
def test_a_link_comes_back(subject: Subject, purpose: Purpose) -> None:
    token = TOKENS.link(purpose, subject)
    assert re.fullmatch(r"[A-Za-z0-9_-]+", token)
    assert TOKENS.open_link(purpose, token) == subject


@given(subject=SUBJECTS, data=st.data())
def test_a_return_path_comes_back_in_whatever_case(subject: Subject, data: st.DataObject) -> None:
    token = TOKENS.return_path(subject)
    assert re.fullmatch(r"[a-z2-7]+", token)
    raw = base64.b32decode(token.upper() + "=" * (-len(token) % 8))
    assert base64.b32encode(raw).decode().rstrip("=").lower() == token, "it is plain RFC 4648 base32"
    folded = "".join(data.draw(st.sampled_from([letter, letter.upper()])) for letter in token)
    assert TOKENS.open_return_path(folded) == subject


@given(subject=ORDINARY)
def test_a_return_path_fits_a_local_part(subject: Subject) -> None:
    """RFC 5321 §4.5.3.1.1: 64 octets, of which the prefix "b-" takes two."""
    assert len(TOKENS.return_path(subject)) <= 62


@given(subject=SUBJECTS, place=st.integers(0, 500), letter=st.sampled_from("ABCDEFabcdef0123456789_-"))
def test_a_changed_letter_is_seen(subject: Subject, place: int, letter: str) -> None:
    token = TOKENS.link(Purpose.UNSUBSCRIBE, subject)
    place %= len(token)
    changed = token[:place] + letter + token[place + 1 :]
    pad = "=" * (-len(token) % 4)
    assume(base64.urlsafe_b64decode(changed + pad) != base64.urlsafe_b64decode(token + pad))
    with pytest.raises(TokenWrong):
        TOKENS.open_link(Purpose.UNSUBSCRIBE, changed)


@given(token=st.one_of(st.text(max_size=300), st.from_regex(r"[A-Za-z0-9_=-]{0,250}", fullmatch=True)))
def test_no_text_is_a_token_by_chance(token: str) -> None:
    with pytest.raises(TokenWrong):
        TOKENS.open_link(Purpose.OPEN, token)
    with pytest.raises(TokenWrong):
        TOKENS.open_return_path(token)
    with pytest.raises(TokenWrong):
        TOKENS.open_text(Purpose.CLICK, Subject(1, 1, 1, 1, 1), "x", token)
