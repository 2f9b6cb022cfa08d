"""Closed lists: enumerations whose every value carries the sentence that people read."""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class ClosedList(StrEnum):
    """A string enumeration; each member is declared as `NAME = "value", "One sentence for people."`."""

    sentence: str

    def __new__(cls, value: str, sentence: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.sentence = sentence
        return member
