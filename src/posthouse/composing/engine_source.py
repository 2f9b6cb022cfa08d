"""The template that the render child is given for a part with more than blanks.

It is written so that its output is quoted-printable already: text between tags is encoded here, once; every value goes through a
filter that escapes and encodes it. A tag may be skipped or repeated, so nobody knows the column at a seam: each piece begins and ends
at the start of a line (answers 18).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from jinja2.exceptions import TemplateSyntaxError

from posthouse.composing.compiled import TokenSlot
from posthouse.composing.engine_names import (
    PLACE_FILTERS,
    PLAIN_FILTER,
    TARGET_BEGINS,
    TARGET_ENDS,
    TARGET_FILTERS,
    TOKEN_NAMES,
)
from posthouse.composing.escaping import Place, escape_url_part
from posthouse.composing.layout import Blank, Code, PartLayout, PersonalLink
from posthouse.composing.tags import LEXER, BlockTag, SpecialTag, Tag, template_wrong
from posthouse.mail.quoted_printable import SOFT_BREAK, clean_text, encode

_SOFT_BREAK = SOFT_BREAK.decode()


def engine_source(part: PartLayout) -> str:
    """A minijinja template for one part. Raises TemplateWrong when the HTML tools have torn a block apart."""
    source = "".join(_sources(part))
    try:
        LEXER.parse(source)
    except TemplateSyntaxError as error:
        raise template_wrong(
            part.part.name.capitalize(),
            None,
            f"{error.message} Begin and end each block within the same element, neither of them hidden.",
        ) from error
    return source


def subject_source(pieces: Iterable[str | Tag]) -> str:
    """A minijinja template for Subject, whose output is text: the parent encodes it."""
    return "".join(map(_subject_piece, pieces))


def _subject_piece(piece: str | Tag) -> str:
    if isinstance(piece, str):
        return piece.replace("{", "{{ '{' }}")
    if isinstance(piece, BlockTag):
        return f"{{% {piece.source.strip()} %}}"
    source = piece.name if isinstance(piece, SpecialTag) else piece.source.strip()
    return f"{{{{ ({source})|{PLAIN_FILTER} }}}}"


def _sources(part: PartLayout) -> Iterator[str]:
    for piece in part.pieces:
        if isinstance(piece, str):
            yield _encoded_text(piece)
        elif isinstance(piece, TokenSlot):
            yield f"{{{{ {TOKEN_NAMES[piece.kind]} }}}}{_SOFT_BREAK}"
        elif isinstance(piece, PersonalLink):
            yield TARGET_BEGINS + "".join(map(_target_source, piece.target)) + TARGET_ENDS
        else:
            yield _tag_source(piece, PLACE_FILTERS)


def _encoded_text(text: str) -> str:
    # A brace could begin a tag of the engine's own.
    encoded, column = encode(clean_text(text).encode(), also=b"{")
    return encoded.decode() + (_SOFT_BREAK if column else "")


def _target_source(piece: str | Blank | Code) -> str:
    return escape_url_part(piece) if isinstance(piece, str) else _tag_source(piece, TARGET_FILTERS)


def _tag_source(piece: Blank | Code, filters: dict[Place, str]) -> str:
    place = piece.slot.place if isinstance(piece, Blank) else piece.place
    if place is None:
        return f"{{% {piece.source.strip()} %}}"
    return f"{{{{ ({piece.source.strip()})|{filters[place]} }}}}"
