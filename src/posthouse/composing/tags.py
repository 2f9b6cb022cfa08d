"""Template source taken apart into text and tags, by Jinja2's own lexer, so that line numbers and whitespace control are right."""

from __future__ import annotations

import re
from ast import literal_eval
from collections.abc import Iterator

from jinja2 import Environment
from jinja2.exceptions import TemplateSyntaxError
from msgspec import Struct

from posthouse.model.errors import TemplateWrong

# Never renders: autoescape matters only to rendering, which minijinja does in the child with escaping of our own.
LEXER = Environment(autoescape=True, keep_trailing_newline=True)

UNSUBSCRIBE_URL = "unsubscribe_url"
POSTAL_ADDRESS = "postal_address"
_NOT_OFFERED = {"view_url": "The blank view_url (view in browser) is not offered yet. Take it out of the template."}
_QUIET = frozenset({"whitespace"})
_DEFAULT_FILTERS = frozenset({"default", "d"})
_TRUE_WORDS = frozenset({"true", "True"})


class FieldTag(Struct, frozen=True):
    """`{{ name }}`, `{{ contact.name }}`, or either with `|default('…')`; source: what stands between the braces."""

    name: str
    default: str | None
    source: str
    line: int


class SpecialTag(Struct, frozen=True):
    """`{{ unsubscribe_url }}` or `{{ postal_address }}`."""

    name: str
    line: int


class ExpressionTag(Struct, frozen=True):
    """Any other `{{ … }}`; source: what stands between the braces."""

    source: str
    line: int


class BlockTag(Struct, frozen=True):
    """`{% … %}`; source: what stands between the signs."""

    source: str
    line: int


Tag = FieldTag | SpecialTag | ExpressionTag | BlockTag


def template_wrong(where: str, line: int | None, sentence: str) -> TemplateWrong:
    """The error that a person reads: which part, which line, what is wrong and how to mend it."""
    return TemplateWrong(f"{where}, line {line}: {sentence}" if line else f"{where}: {sentence}")


def split_tags(source: str, where: str) -> Iterator[str | Tag]:
    """Text and tags in order; comments are gone, `raw` blocks are text, and "-" has already eaten the white space that it eats.

    where: the name of the part for error messages. Raises TemplateWrong.
    """
    tokens = _tokens(source, where)
    for line, kind, value in tokens:
        if kind == "data":
            yield value
        elif kind == "variable_begin":
            yield _value_tag(list(_until(tokens, "variable_end")), line, where)
        elif kind == "block_begin":
            yield BlockTag("".join(value for _, value in _until(tokens, "block_end")), line)


def _tokens(source: str, where: str) -> Iterator[tuple[int, str, str]]:
    try:
        tokens = list(LEXER.lex(source))
    except TemplateSyntaxError as error:
        raise template_wrong(where, error.lineno, f"{error.message or 'The template cannot be read'}.") from error
    return iter(tokens)


def _until(tokens: Iterator[tuple[int, str, str]], end: str) -> Iterator[tuple[str, str]]:
    for _, kind, value in tokens:
        if kind == end:
            return
        yield kind, value


def _value_tag(tokens: list[tuple[str, str]], line: int, where: str) -> Tag:
    source = "".join(value for _, value in tokens)
    words = [(kind, value) for kind, value in tokens if kind not in _QUIET]
    if [value for _, value in words[:2]] == ["contact", "."] and len(words) > 2:
        words = words[2:]
        of_contact = True
    else:
        of_contact = False
    if not words or words[0][0] != "name":
        return ExpressionTag(source, line)
    name = words[0][1]
    if not of_contact and name in _NOT_OFFERED:
        raise template_wrong(where, line, _NOT_OFFERED[name])
    default, is_plain = _default_of(words[1:])
    if not is_plain:
        return ExpressionTag(source, line)
    if not of_contact and name in (UNSUBSCRIBE_URL, POSTAL_ADDRESS):
        return SpecialTag(name, line)
    return FieldTag(name, default, source, line)


def _default_of(words: list[tuple[str, str]]) -> tuple[str | None, bool]:
    """(the default, whether there is nothing but a default with one literal)."""
    if not words:
        return None, True
    values = [value for _, value in words]
    if values[-3:-2] == [","] and values[-2] in _TRUE_WORDS:
        # default('x', true) asks for what default('x') does here anyway: an empty field is a missing one.
        values[-3:-1] = []
        words = [*words[:-3], words[-1]]
    if (
        len(values) == 5
        and values[0] == "|"
        and values[1] in _DEFAULT_FILTERS
        and values[2] == "("
        and values[4] == ")"
    ):
        kind, literal = words[3]
        if kind == "string":
            return str(literal_eval(re.sub(r"\n", r"\\n", literal))), True
        if kind == "integer":
            return literal, True
    return None, False
