"""A template proven before it is used: rendered in a throw-away child, for real contacts and for hostile ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from jinja2 import nodes

from posthouse.composing.compiled import CompiledMessage
from posthouse.composing.draft import RenderFailed
from posthouse.composing.engine_names import TOKEN_NAMES
from posthouse.composing.render_child import RenderChild
from posthouse.composing.tags import LEXER
from posthouse.model.errors import TemplateWrong

_SECONDS = 2.0
_MEMORY = 256 * 1024 * 1024
_LONG_TEXT = "&=é" * 10_000
# Enough for two loops in each other to use up the fuel, and little for a template that prints a list.
_MANY = list(range(600))


async def prove_template(compiled: CompiledMessage, samples: Sequence[Mapping[str, Any]]) -> None:
    """Raise TemplateWrong unless every sample renders, and no value that a contact may hold brings the render child down.

    samples: the fields of some real contacts. All renderings together have two seconds of processor time and 256 MB. A template
    that has blanks only needs no proof.
    """
    if not compiled.engine:
        return
    sources = compiled.child_sources
    names = sorted(set().union(*map(_names, sources.values())))
    batch = [_values(fields) for fields in (*samples, *_hostile_contacts(names))]
    async with RenderChild(_SECONDS, _MEMORY, second_chance=False) as child:
        answers = await child.render(sources, batch)
    for answer, is_real in zip(answers, [True] * len(samples) + [False] * len(answers), strict=False):
        if isinstance(answer, RenderFailed) and answer.child_lost:
            raise TemplateWrong(f"The template is not safe to send. {answer.reason} Make it simpler.")
        if isinstance(answer, RenderFailed) and is_real:
            raise TemplateWrong(f"The template cannot be rendered for a real contact: {answer.reason}")


def _names(source: str) -> set[str]:
    tree = LEXER.parse(source)
    plain = {name.name for name in tree.find_all(nodes.Name) if name.ctx == "load"}
    return plain | {attribute.attr for attribute in tree.find_all(nodes.Getattr)}


def _hostile_contacts(names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Every field empty, too long, of another kind, nested, or a list of many."""
    nested: Any = "x"
    for _ in range(60):
        nested = [{"a": nested}]
    table = [dict.fromkeys(names, "x")] * len(_MANY)
    values: tuple[Any, ...] = ("", None, _LONG_TEXT, "{{ 7 * 7 }}{% raw %}", -1e308, True, [], {}, _MANY, table, nested)
    for value in values:
        yield dict.fromkeys(names, value)


def _values(fields: Mapping[str, Any]) -> dict[str, Any]:
    contact = {"email": "someone@example.com", **fields}
    address = {"unsubscribe_url": "https://example.com/u/x", "postal_address": "1 Example Street"}
    return {**contact, "contact": contact, **address, **dict.fromkeys(TOKEN_NAMES.values(), "x")}
