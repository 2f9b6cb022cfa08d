"""Thirteen known attacks on template engines: each is refused by the lint, and stopped by the render child when the lint is left out."""

from __future__ import annotations

from collections.abc import Callable

import psutil  # type: ignore[import-untyped]
import pytest

from posthouse.composing import CompiledMessage, RenderChild, RenderFailed
from posthouse.model.errors import TemplateWrong

MEGABYTE = 1024 * 1024


def _nested(depth: int, inner: str) -> str:
    return "".join(f"{{% for v{n} in rows %}}" for n in range(depth)) + inner + "{% endfor %}" * depth


# name → (template, whether the lint refuses it; what it lets through is left to the child)
ATTACKS: dict[str, tuple[str, bool]] = {
    "nested loops": (_nested(6, "x"), True),
    "huge range": ("{% for i in range(10 ** 12) %}x{% endfor %}", True),
    "string repetition": ('{{ "a" * 10000000000 }}', True),
    "huge output": (_nested(2, "{{ long }}"), False),
    "string doubling": ("{% set x = long %}" + "{% set x = x ~ x %}" * 29 + "{{ x|length }}", True),
    "replace growth": (
        "{{ long" + "|replace('x', '" + "x" * 90 + "')" * 1 + ("|replace('x', '" + "x" * 90 + "')") * 7 + "|length }}",
        False,
    ),
    "huge width": ('{{ "%1000000000d"|format(1) }}', True),
    "list doubling": ("{% set x = [1] %}" + "{% set x = x + x %}" * 29 + "{{ x }}", True),
    "nested lists printed": ("{% set x = [1] %}" + "{% set x = [x, x] %}" * 29 + "{{ x }}", True),
    "dict doubling": ("{% set x = {} %}" + "{% set x = {'a': x, 'b': x} %}" * 29 + "{{ x }}", True),
    "format method": ('{{ "{:>1000000000}".format(1) }}', True),
    "huge indent": ("{{ rows|tojson(indent=100000000) }}", True),
    "attribute escape": ("{{ ''.__class__.__mro__[1].__subclasses__() }}", True),
}
VALUES = {"rows": list(range(2_000)), "long": "x" * 20_000}


def test_there_are_thirteen() -> None:
    assert len(ATTACKS) == 13


@pytest.mark.parametrize("name", [name for name, (_, refused) in ATTACKS.items() if refused])
def test_the_lint_refuses(compiled: Callable[..., CompiledMessage], name: str) -> None:
    with pytest.raises(TemplateWrong, match=r"Text, line 1: "):
        compiled(text=ATTACKS[name][0])


@pytest.mark.parametrize("name", ATTACKS)
async def test_the_child_stops_what_no_lint_has_seen(name: str) -> None:
    """It ends within the time and the memory that it has, and the sender lives on."""
    sources = {"text": ATTACKS[name][0]}
    async with RenderChild(seconds_per_batch=2.0, second_chance=False) as child:
        await child.render({"text": "ready"}, [{}])
        assert psutil.Process(child.pid).rlimit(psutil.RLIMIT_AS)[1] == 256 * MEGABYTE
        (answer,) = await child.render(sources, [VALUES])
        harmless = isinstance(answer, list) and len(answer[0]) < MEGABYTE and b"class" not in answer[0]
        assert isinstance(answer, RenderFailed) or harmless
        assert await child.render({"text": "{{ n|_text }}"}, [{"n": 1}]) == [[b"1=\r\n"]]


@pytest.mark.parametrize(
    ("template", "word"),
    [
        ("{% macro a() %}{% endmacro %}", "macro"),
        ("{% import 'x' as y %}", "import"),
        ("{% from 'x' import y %}", "import"),
        ("{% extends 'x' %}", "extends"),
        ("{% include 'x' %}", "include"),
        ("{% block x %}{% endblock %}", "block"),
        ("{% filter upper %}{% endfilter %}", "filter"),
        ("{% set x %}a{% endset %}", "set"),
        ("{% call a() %}{% endcall %}", "call"),
        ("{{ 2 ** 3 }}", r"\*\*"),
        ("{% for x in y recursive %}{% endfor %}", "recursive"),
        ("{{ namespace(a=1) }}", "namespace"),
        ("{{ contact.pop('x') }}", "pop"),
        ("{{ x|safe }}", "always escaped"),
        ("{{ x|batch(3) }}", "batch"),
        ("{{ x is sameas y }}", "sameas"),
        ("{{ _click }}", "_click"),
        ("{{ x._y }}", "_y"),
        ("{{ x['_y'] }}", "_y"),
        ("{{ self }}", "self"),
        ("{% set contact = 1 %}", "contact"),
        ("{% set x = a + b %}", "sum"),
        ("{% with x = [1] %}{% endwith %}", "list"),
        ("{% for x in [a, b] %}{% endfor %}", "variables"),
        ("{{ {'a': b} }}", "variables"),
        ("{{ x|replace('a', y) }}", "replace"),
        ("{{ x|replace('a', '" + "b" * 101 + "') }}", "replace"),
        ("{{ x" + "|upper" * 9 + " }}", "in a row"),
        ("{% set x = 1 %}" * 31, "31|30"),
        ("{{ " + "(" * 2000 + "x" + ")" * 2000 + " }}", "nested too deeply"),
    ],
)
def test_what_the_lint_refuses_it_names(compiled: Callable[..., CompiledMessage], template: str, word: str) -> None:
    with pytest.raises(TemplateWrong, match=word):
        compiled(text=template)


@pytest.mark.parametrize(
    "template",
    [
        "{% set total = price %}{% if total > 3 and vip %}{{ total }}{% elif not x %}a{% endif %}",
        "{% for a in items %}{% for b in a.parts %}{{ loop.index }} {{ b|upper|default('x') }}{% else %}none{% endfor %}{% endfor %}",
        "{{ 'yes' if vip else 'no' }} {{ a + b - c / d }} {{ a ~ b }} {{ x in ['a', 'b'] }}",
        "{{ items|length }} {{ names|join(', ') }} {{ x|replace('a', 'b')|trim|title }} {{ x is defined }}",
        "{% with y = x|upper %}{{ y }}{% endwith %}",
    ],
)
def test_what_a_newsletter_needs_is_allowed(compiled: Callable[..., CompiledMessage], template: str) -> None:
    assert compiled(text=template).engine
