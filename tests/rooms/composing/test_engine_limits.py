"""The second lock behind the lint: what the engine itself will not do, tried in this process because it is harmless there."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from posthouse.composing import CompiledMessage
from posthouse.composing.engine import FILTERS, FUEL, MOST_OCTETS, Engine, RenderError


def render(template: str, **values: object) -> bytes:
    engine = Engine()
    engine.load({"text": template})
    (part,) = engine.render(values)
    return part


def test_steps_are_counted() -> None:
    few = "{% for x in rows %}{{ x }}{% endfor %}"
    assert render(few, rows=[1] * 100) == b"1" * 100
    with pytest.raises(RenderError, match="fuel"):
        render(few, rows=[1] * FUEL)


def test_a_part_has_a_largest_size() -> None:
    assert len(render("{{ x }}", x="y" * MOST_OCTETS)) == MOST_OCTETS
    with pytest.raises(RenderError, match="larger than"):
        render("{{ x }}", x="y" * (MOST_OCTETS + 1))


def test_texts_have_no_methods() -> None:
    with pytest.raises(RenderError, match="no method"):
        render("{{ x.upper() }}", x="y")


@pytest.mark.parametrize("name", ["tojson", "pprint", "indent", "format", "batch", "safe", "attr", "map"])
def test_filters_that_grow_or_show_are_gone(name: str) -> None:
    assert name not in FILTERS
    with pytest.raises(RenderError, match="unknown filter"):
        render(f"{{{{ x|{name} }}}}", x="y")


@pytest.mark.parametrize("name", sorted(FILTERS))
def test_filters_that_are_offered_exist(name: str) -> None:
    try:
        render(f"{{{{ x|{name} }}}}", x="y")
    except RenderError as error:
        assert "unknown filter" not in str(error)  # noqa: PT017 - a filter may refuse the value, but must be known


@pytest.mark.parametrize("name", ["range", "debug", "namespace", "dict"])
def test_functions_are_gone(name: str) -> None:
    assert render(f"{{{{ {name} is defined }}}}") == b"False"


def test_the_last_line_break_stays() -> None:
    assert render("x\r\n") == b"x\r\n"


def test_a_template_that_cannot_be_read_says_so_for_every_recipient() -> None:
    engine = Engine()
    engine.load({"text": "fine"})
    engine.load({"text": "{% nonsense %}"})
    for _ in range(2):
        with pytest.raises(RenderError, match="nonsense"):
            engine.render({})


def test_braces_of_the_text_are_no_tags(compiled: Callable[..., CompiledMessage]) -> None:
    message = compiled(text="{% raw %}{{ x }} {% if %} {# no #}{% endraw %}{% if y %}{% endif %}")
    (source,) = message.child_sources.values()
    assert render(source).replace(b"=\r\n", b"") == b"=7B=7B x }} =7B% if %} =7B# no #}\r\n"


def test_a_name_that_the_template_sets_is_no_merge_field(compiled: Callable[..., CompiledMessage]) -> None:
    assert compiled(text="{% set total = price %}{{ total }} {{ currency|upper }}").fields == ("currency",)
