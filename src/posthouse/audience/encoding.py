"""Encodings: which one a contacts file is written in, from its first bytes and the first of its bytes outside ASCII."""

from __future__ import annotations

import codecs
import re
import unicodedata
from pathlib import Path
from typing import BinaryIO

from charset_normalizer import from_bytes

from posthouse.model.errors import ImportWrong

# Stands for bytes that the encoding does not have; no text file can hold this code point by itself.
DAMAGE = "\udcff"
DAMAGE_ERRORS = "posthouse.damage"

_SAMPLE_BYTES = 256 * 1024
_BLOCK_BYTES = 1024 * 1024
_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# Western first: when two fit equally well, the commoner one is meant.
_LATIN = ("cp1252", "cp1250", "iso8859_2")
_CANDIDATES = [*_LATIN, "cp932", "euc_jp", "gb18030", "big5", "cp949", "cp1251", "koi8_r", "cp1253", "iso8859_7"]
_CONTROLS = bytes(set(range(32)) - set(b"\t\n\r\x0b\x0c\x1b"))
_MOST_CONTROLS = 0.05


def _mark_damage(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return DAMAGE, error.end


codecs.register_error(DAMAGE_ERRORS, _mark_damage)


def detect_encoding(path: Path) -> str:
    """The name of a codec for a text file. Raises ImportWrong for a file that is not text."""
    with path.open("rb") as file:
        head = file.read(_SAMPLE_BYTES)
        for bom, name in _BOMS:
            if head.startswith(bom):
                return name
        wide = _utf16_without_bom(head)
        if wide is not None:
            return wide
        if len(head.translate(None, _CONTROLS)) < len(head) * (1 - _MOST_CONTROLS):
            raise ImportWrong(f"{path.name} is not a text file: save the table as CSV (UTF-8), TSV or XLSX.")
        sample = head if not head.isascii() else _first_block_outside_ascii(file)
    if sample.isascii() or _is_utf8(sample):
        return "utf-8"
    return _legacy_encoding(sample)


def _utf16_without_bom(head: bytes) -> str | None:
    """ASCII in UTF-16 has a NUL in every other byte; which one says the byte order."""
    half = len(head) // 2
    if half < 4:
        return None
    low, high = head[0 : half * 2 : 2].count(0), head[1 : half * 2 : 2].count(0)
    if high > half * 0.6 and low < half * 0.1:
        return "utf-16-le"
    if low > half * 0.6 and high < half * 0.1:
        return "utf-16-be"
    return None


def _first_block_outside_ascii(file: BinaryIO) -> bytes:
    while block := file.read(_BLOCK_BYTES):
        if not block.isascii():
            return block
    return b""


def _is_utf8(sample: bytes) -> bool:
    """Whether nearly all that is outside ASCII is good UTF-8, so that one damaged row does not turn the others into mojibake."""
    text = sample.decode("utf-8", DAMAGE_ERRORS)
    damaged = text.count(DAMAGE) - text.endswith(DAMAGE) - text.startswith(DAMAGE)
    good = sum(1 for c in text if c > "\x7f") - text.count(DAMAGE)
    return damaged * 20 <= good


def _legacy_encoding(sample: bytes) -> str:
    """The likeliest encoding from before Unicode.

    charset-normalizer tells scripts apart; between the Latin ones it guesses, so there the words decide.
    """
    lines = [line for line in sample.splitlines() if not line.isascii()]
    telling = b"\n".join(lines)[:_SAMPLE_BYTES]
    best = from_bytes(telling, cp_isolation=_CANDIDATES, threshold=0.5).best()
    if best is not None and best.encoding not in _LATIN:
        return best.encoding
    return min(_LATIN, key=lambda name: _broken_words(telling.decode(name, DAMAGE_ERRORS)))


def _broken_words(text: str) -> int:
    """How often a sign stands where a letter should: “£ódŸ” has two, “Łódź” none."""
    broken = text.count(DAMAGE)
    for word in re.findall(r"\S*[^\x00-\x7f]\S*", text):
        for before, here in zip(" " + word, word, strict=False):
            if (here > "\x7f" and not unicodedata.category(here).startswith(("L", "P"))) or (
                before.islower() and here.isupper()
            ):
                broken += 1
    return broken
