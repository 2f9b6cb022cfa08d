"""Marks: words that stand for template tags and tracking links while HTML tools are at work.

A parser of HTML5 moves or escapes `{% … %}` and `{{ … }}`; a word of letters and digits it leaves alone, in text, in an attribute
and in a URL. A block tag between elements becomes a comment, because a parser lifts bare text out of tables.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import sha256

from msgspec import Struct

from posthouse.composing.tags import BlockTag, Tag, split_tags, template_wrong

# Comments, tags with quoted attributes, and elements whose content is no markup.
_NOT_BETWEEN_ELEMENTS = re.compile(
    r"<!--.*?-->|<(?P<raw>style|script|title|textarea)\b.*?</(?P=raw)\s*>|</?[a-z!][^\s>\"']*(?:\"[^\"]*\"|'[^']*'|[^'\">])*>",
    re.DOTALL | re.IGNORECASE,
)
_CODE_ELEMENT = re.compile(r"<(style|script)\b.*?</\1\s*>", re.DOTALL | re.IGNORECASE)
_QUOTED = re.compile(r"\"[^\"]*\"|'[^']*'|<!--.*?-->", re.DOTALL)


class Click(Struct, frozen=True):
    """A tracked link to a target that is the same for everybody."""

    index: int


class Personal(Struct, frozen=True):
    """A tracked link to a target with marks in it."""

    target: str


class Pixel(Struct, frozen=True):
    """The address of the open pixel."""


Mark = Tag | Click | Personal | Pixel


class Marks:
    """All marks of one draft. A mark is a word such as `q1f00ba7n12z`, which occurs nowhere in the draft itself."""

    def __init__(self, *sources: str) -> None:
        """sources: every text of the draft."""
        salt = 0
        while any((prefix := f"q{sha256(bytes([salt])).hexdigest()[:8]}n") in source.lower() for source in sources):
            salt += 1
        self._prefix = prefix
        self._known: list[Mark] = []
        self.word = re.compile(rf"{prefix}(\d+)z", re.IGNORECASE)
        self._found = re.compile(rf"(?:<!--|&lt;!--)?{prefix}(\d+)z(?:--(?:>|&gt;))?", re.IGNORECASE)

    def add(self, mark: Mark) -> str:
        """The word for a mark."""
        self._known.append(mark)
        return f"{self._prefix}{len(self._known) - 1}z"

    def of(self, word: re.Match[str]) -> Mark:
        """The mark that a match of `word` names."""
        return self._known[int(word[1])]

    def mark_text(self, source: str, where: str) -> str:
        """A template with words for its tags."""
        return "".join(p if isinstance(p, str) else self.add(p) for p in split_tags(source, where))

    def mark_markup(self, source: str, where: str) -> str:
        """An HTML or MJML template with words for its tags, and comments for block tags between elements. Raises TemplateWrong."""
        marked = self.mark_text(source, where)
        self._refuse_code(marked, where)
        out: list[str] = []
        position = 0
        for span in _NOT_BETWEEN_ELEMENTS.finditer(marked):
            out += (self._commented(marked[position : span.start()]), span[0])
            self._refuse_between_attributes(span[0], where)
            position = span.end()
        return "".join([*out, self._commented(marked[position:])])

    def _commented(self, text: str) -> str:
        return self.word.sub(lambda m: f"<!--{m[0]}-->" if isinstance(self.of(m), BlockTag) else m[0], text)

    def _refuse_code(self, marked: str, where: str) -> None:
        for element in _CODE_ELEMENT.finditer(marked):
            if word := self.word.search(element[0]):
                raise template_wrong(
                    where,
                    _line(self.of(word)),
                    f"A tag cannot stand inside <{element[1].lower()}>. Put it in the text or in an attribute.",
                )

    def _refuse_between_attributes(self, span: str, where: str) -> None:
        if span.startswith("<!"):
            return
        opening = span[: span.index(">") + 1] if span[1:2].isalpha() and "</" in span[2:] else span
        if word := self.word.search(_QUOTED.sub('""', opening)):
            raise template_wrong(
                where,
                _line(self.of(word)),
                "A template tag stands between attributes or in one without quotes. Put it inside the quotes of one attribute, "
                "or around the whole element.",
            )

    def check_kept(self, before: str, after: str, where: str) -> None:
        """Raise TemplateWrong when the HTML tools lost a tag, or doubled a block tag."""
        kept = [int(m[1]) for m in self.word.finditer(after)]
        for word in self.word.finditer(before):
            mark = self.of(word)
            times = kept.count(int(word[1]))
            if times == 0 or (times > 1 and isinstance(mark, BlockTag)):
                raise template_wrong(
                    where,
                    _line(mark),
                    "This tag stands where HTML allows no text, and would be lost. Move it into the text around it.",
                )

    def pieces(self, marked: str) -> Iterator[tuple[str | Mark, int]]:
        """Text and marks in order, each with its position in `marked`."""
        position = 0
        for found in self._found.finditer(marked):
            if found.start() > position:
                yield marked[position : found.start()], position
            yield self.of(found), found.start()
            position = found.end()
        if position < len(marked):
            yield marked[position:], position


def _line(mark: Mark) -> int | None:
    return getattr(mark, "line", None)
