"""Tokens: what they look like, which key opens them, and what they refuse."""

from __future__ import annotations

import pytest

from posthouse.mail.tokens import Purpose, Subject, Tokens
from posthouse.model.errors import TokenWrong

OLD, NEW = b"a" * 32, b"b" * 32
SUBJECT = Subject(1, 22, 333, 4_444_444, 5_555_555_555)


def test_an_old_key_opens_what_it_signed_for_ever() -> None:
    """UNS-5: an unsubscribe link in an old message still works."""
    before, after = Tokens({1: OLD}, 1), Tokens({1: OLD, 2: NEW}, 2)
    for purpose in Purpose:
        assert after.open_link(purpose, before.link(purpose, SUBJECT)) == SUBJECT
    assert after.open_return_path(before.return_path(SUBJECT)) == SUBJECT
    after.open_text(
        Purpose.CLICK, SUBJECT, "https://a.example", before.seal_text(Purpose.CLICK, SUBJECT, "https://a.example")
    )
    with pytest.raises(TokenWrong):
        before.open_link(Purpose.OPEN, after.link(Purpose.OPEN, SUBJECT))


def test_a_key_of_the_same_id_and_another_value_opens_nothing() -> None:
    with pytest.raises(TokenWrong):
        Tokens({1: NEW}, 1).open_link(Purpose.OPEN, Tokens({1: OLD}, 1).link(Purpose.OPEN, SUBJECT))


def test_a_token_serves_one_purpose() -> None:
    """A pixel's token cannot unsubscribe anybody."""
    tokens = Tokens({1: OLD}, 1)
    made = dict(zip(Purpose, tokens.of_copy(tuple(Purpose), SUBJECT)[0], strict=True))
    assert len(set(made.values())) == len(Purpose)
    for used, token in made.items():
        for purpose in Purpose:
            if purpose is not used:
                with pytest.raises(TokenWrong):
                    tokens.open_link(purpose, token)
    with pytest.raises(TokenWrong):
        tokens.open_text(Purpose.OPEN, SUBJECT, "x", tokens.seal_text(Purpose.CLICK, SUBJECT, "x"))


def test_a_sealed_text_is_for_one_copy_and_one_text() -> None:
    tokens = Tokens({1: OLD}, 1)
    seal = tokens.seal_text(Purpose.CLICK, SUBJECT, "https://a.example/?for=ann")
    tokens.open_text(Purpose.CLICK, SUBJECT, "https://a.example/?for=ann", seal)
    other = Subject(1, 22, 333, 4_444_445, 5_555_555_555)
    for subject, text, wrong in (
        (SUBJECT, "https://a.example/?for=ben", seal),
        (other, "https://a.example/?for=ann", seal),
        (SUBJECT, "https://a.example/?for=ann", ""),
        (SUBJECT, "https://a.example/?for=ann", seal[:5] + ("A" if seal[5] != "A" else "B") + seal[6:]),
    ):
        with pytest.raises(TokenWrong):
            tokens.open_text(Purpose.CLICK, subject, text, wrong)


@pytest.mark.parametrize("token", ["", "A", "=", "Ää", "a b", "x" * 201, "AQ", "AQEBAQEB", "!!!!"])
def test_what_was_not_made_here_is_refused(token: str) -> None:
    tokens = Tokens({1: OLD}, 1)
    with pytest.raises(TokenWrong):
        tokens.open_link(Purpose.OPEN, token)
    with pytest.raises(TokenWrong):
        tokens.open_return_path(token)
