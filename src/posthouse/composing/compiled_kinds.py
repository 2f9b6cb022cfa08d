"""Closed lists of the compiled message. Stored by number, so a number keeps its meaning for ever."""

from __future__ import annotations

from enum import IntEnum


class TokenKind(IntEnum):
    """Which of a recipient's tokens a slot wants."""

    CLICK = 0
    OPEN = 1
    UNSUBSCRIBE = 2


class Part(IntEnum):
    """The three texts of a message, each with a template of its own."""

    SUBJECT = 0
    TEXT = 1
    HTML = 2
