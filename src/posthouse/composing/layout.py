"""One part of a message (text or HTML) as pieces, each blank knowing the place where it stands."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator

from msgspec import Struct

from posthouse.composing.compiled import FieldSlot, LinkSlot, RenderedSlot, TokenSlot
from posthouse.composing.compiled_kinds import Part, TokenKind
from posthouse.composing.draft import Frame
from posthouse.composing.escaping import Place, escape_markup
from posthouse.composing.filling import FillingBuilder
from posthouse.composing.marks import Click, Mark, Marks, Personal, Pixel
from posthouse.composing.tags import (
    POSTAL_ADDRESS,
    UNSUBSCRIBE_URL,
    BlockTag,
    ExpressionTag,
    FieldTag,
    SpecialTag,
    template_wrong,
)

_URL_IN_MARKUP = re.compile(
    r"\b(?:href|src|srcset|action|background|poster|cite|formaction)\s*=\s*(?:\"(?P<double>[^\"]*)\"|'(?P<single>[^']*)')"
    r"|url\(\s*(?:&quot;|['\"])?(?P<css>[^)]*)\)",
    re.IGNORECASE,
)
_URL_IN_TEXT = re.compile(r"(?P<text>https?://[^\s<>\"'`]+)", re.IGNORECASE)
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


class Blank(Struct, frozen=True):
    """A merge field in its place; source: what stands between the braces."""

    slot: FieldSlot
    source: str


class Code(Struct, frozen=True):
    """What only the render child understands: an expression in its place, or a block tag (place None)."""

    source: str
    place: Place | None


class PersonalLink(Struct, frozen=True):
    """A tracked link whose target has blanks or code in it."""

    target: tuple[str | Blank | Code, ...]
    markup: bool


Piece = str | TokenSlot | Blank | Code | PersonalLink


class PartLayout(Struct, frozen=True):
    """A part's pieces in order. uses: the special blanks in it."""

    part: Part
    pieces: tuple[Piece, ...]
    uses: frozenset[str]

    @property
    def needs_engine(self) -> bool:
        """Whether some piece is more than a blank."""
        return any(isinstance(piece, Code) for piece in self._flat())

    @property
    def static_text(self) -> str:
        """The text between the blanks."""
        return "".join(piece for piece in self.pieces if isinstance(piece, str))

    @property
    def field_slots(self) -> list[FieldSlot]:
        """Every merge field, those in links too."""
        return [piece.slot for piece in self._flat() if isinstance(piece, Blank)]

    def build(self, builder: FillingBuilder) -> None:
        """Lay the part out for filling; a part that needs the engine is one slot."""
        if self.needs_engine:
            builder.rendered(RenderedSlot(self.part))
            return
        for piece in self.pieces:
            if isinstance(piece, str):
                builder.text(piece)
            elif isinstance(piece, TokenSlot):
                builder.token(piece)
            elif isinstance(piece, Blank):
                builder.value(piece.slot)
            elif isinstance(piece, PersonalLink):
                inner = (p.slot if isinstance(p, Blank) else p for p in piece.target)
                builder.value(LinkSlot(tuple(p for p in inner if not isinstance(p, Code)), piece.markup))

    def _flat(self) -> Iterator[Piece]:
        for piece in self.pieces:
            if isinstance(piece, PersonalLink):
                yield from piece.target
            else:
                yield piece


def lay_out(part: Part, marked: str, marks: Marks, frame: Frame) -> PartLayout:
    """The pieces of a part whose tags and links are marks. Raises TemplateWrong for a blank where no value can be made harmless."""
    markup = part is Part.HTML
    places = _Places(marked, markup)
    if markup:
        _refuse_unquoted_in_comments(marked, marks)
    pieces: list[Piece] = []
    uses: set[str] = set()
    for piece, at in marks.pieces(marked):
        if isinstance(piece, str):
            pieces.append(piece)
            continue
        if isinstance(piece, SpecialTag):
            uses.add(piece.name)
        elif isinstance(piece, ExpressionTag):
            uses.update(word for word in (UNSUBSCRIBE_URL, POSTAL_ADDRESS) if re.search(rf"\b{word}\b", piece.source))
        pieces += _pieces_of(piece, places.at(at), marks, frame, markup)
    return PartLayout(part, tuple(pieces), frozenset(uses))


def _pieces_of(mark: Mark, place: Place, marks: Marks, frame: Frame, markup: bool) -> Iterator[Piece]:
    escape = escape_markup if markup else str
    if isinstance(mark, (Click, Pixel)) or (isinstance(mark, SpecialTag) and mark.name == UNSUBSCRIBE_URL):
        path, kind, after = (
            ("c", TokenKind.CLICK, f"/{mark.index}")
            if isinstance(mark, Click)
            else ("o", TokenKind.OPEN, ".gif")
            if isinstance(mark, Pixel)
            else ("u", TokenKind.UNSUBSCRIBE, "")
        )
        yield escape(f"{frame.public_url}/{path}/")
        yield TokenSlot(kind)
        yield after
    elif isinstance(mark, SpecialTag):
        lines = [escape(line.strip()) for line in frame.postal_address.strip().splitlines()]
        yield ("<br>" if markup else "\n").join(lines)
    elif isinstance(mark, Personal):
        yield PersonalLink(tuple(_target_pieces(mark.target, marks)), markup)
    else:
        yield from _tag_piece(mark, place)


def _tag_piece(tag: FieldTag | ExpressionTag | BlockTag, place: Place) -> Iterator[Blank | Code]:
    if isinstance(tag, FieldTag):
        yield Blank(FieldSlot(tag.name, tag.default, place), tag.source)
    else:
        yield Code(tag.source, place if isinstance(tag, ExpressionTag) else None)


def _target_pieces(target: str, marks: Marks) -> Iterator[str | Blank | Code]:
    for piece, at in marks.pieces(target):
        if isinstance(piece, str):
            yield piece
        elif isinstance(piece, (FieldTag, ExpressionTag, BlockTag)):
            yield from _tag_piece(piece, Place.URL if at else Place.URL_START)


class _Places:
    """Where the URLs of a part begin and end."""

    def __init__(self, marked: str, markup: bool) -> None:
        self._elsewhere = Place.MARKUP if markup else Place.TEXT
        found = (_URL_IN_MARKUP if markup else _URL_IN_TEXT).finditer(marked)
        self._spans = [match.span(match.lastgroup or 0) for match in found]
        self._starts = [start for start, _ in self._spans]

    def at(self, position: int) -> Place:
        """The place of a mark at this position."""
        index = bisect_right(self._starts, position) - 1
        if index < 0 or position >= self._spans[index][1]:
            return self._elsewhere
        return Place.URL_START if position == self._starts[index] else Place.URL


def _refuse_unquoted_in_comments(marked: str, marks: Marks) -> None:
    """Elsewhere the HTML tools have put every attribute into quotes; a conditional comment they leave as it is."""
    for comment in _COMMENT.finditer(marked):
        for word in marks.word.finditer(comment[0]):
            if comment[0][: word.start()].rstrip().endswith("="):
                raise template_wrong(
                    "HTML",
                    getattr(marks.of(word), "line", None),
                    "A value inside a conditional comment needs quotes around it.",
                )
