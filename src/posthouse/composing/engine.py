"""The template engine as the render child runs it: minijinja with few filters, our own escaping, and a budget of steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from minijinja import Environment

from posthouse.composing.engine_names import PLACE_FILTERS, PLAIN_FILTER, TARGET_FILTERS
from posthouse.composing.escaping import Place, encode_for, escape_url_part, text_of, whole_url
from posthouse.mail.quoted_printable import SOFT_BREAK, clean_text

# Steps of the engine for one part of one message: a long newsletter takes a few thousand.
FUEL = 200_000
# A part larger than this is no email.
MOST_OCTETS = 2_000_000
# Encoded values that are kept, and the longest of them: at most two megabytes for each of the four places.
_REMEMBERED, _SHORT = 4_096, 100
# Every other filter can grow a value without limit, or shows the insides of one. The lint refuses them with a sentence; this is the lock.
FILTERS = frozenset(
    {
        *(
            "abs",
            "bool",
            "capitalize",
            "count",
            "d",
            "default",
            "first",
            "float",
            "int",
            "items",
            "join",
            "last",
            "length",
        ),
        *(
            "lower",
            "max",
            "min",
            "replace",
            "reverse",
            "round",
            "sort",
            "string",
            "sum",
            "title",
            "trim",
            "unique",
            "upper",
        ),
    }
)
_DANGEROUS_FILTERS = (
    *(
        "attr",
        "batch",
        "chain",
        "dictsort",
        "e",
        "escape",
        "format",
        "groupby",
        "indent",
        "lines",
        "list",
        "map",
        "pprint",
    ),
    *("reject", "rejectattr", "safe", "select", "selectattr", "slice", "split", "tojson", "urlencode", "zip"),
    *(
        "truncate",
        "wordwrap",
        "filesizeformat",
        "striptags",
        "pluralize",
        "dateformat",
        "datetimeformat",
        "timeformat",
        "random",
    ),
)
_DANGEROUS_GLOBALS = ("debug", "dict", "namespace", "range", "cycler", "joiner", "lipsum")


# minijinja finds these on a dict that lacks a field of that name, so `{% for x in items %}` would meet a method.
_DICT_METHODS = frozenset(name for name in dir(dict) if not name.startswith("_"))


class RenderError(Exception):
    """This recipient's values do not fit the template."""


class Engine:
    """Templates by name, each with the parts of one message."""

    def __init__(self) -> None:
        self._environment = environment = Environment(fuel=FUEL, pycompat=False, keep_trailing_newline=True)
        environment.auto_escape_callback = lambda name: False
        for name in _DANGEROUS_FILTERS:
            environment.remove_filter(name)
        for name in _DANGEROUS_GLOBALS:
            environment.remove_global(name)
        environment.add_filter("default", _default)
        environment.add_filter("d", _default)
        for place, name in PLACE_FILTERS.items():
            environment.add_filter(name, _printer(place))
        environment.add_filter(TARGET_FILTERS[Place.URL], lambda value: _in_target(escape_url_part(_clean(value))))
        environment.add_filter(TARGET_FILTERS[Place.URL_START], lambda value: _in_target(whole_url(_clean(value))))
        environment.add_filter(PLAIN_FILTER, _clean)
        self._parts: tuple[str, ...] = ()
        self._shadowed: dict[str, None] = {}
        self._unreadable: RenderError | None = None

    def load(self, sources: Mapping[str, str]) -> None:
        """Take the parts of a message in the place of those before; what minijinja cannot read is told at every render."""
        self._environment.clear_templates()
        self._parts, self._unreadable = tuple(sources), None
        words = set(re.findall(r"[a-z]+", " ".join(sources.values())))
        self._shadowed = dict.fromkeys(sorted(_DICT_METHODS & words))
        try:
            for name, source in sources.items():
                self._environment.add_template(name, source)
        except Exception as error:
            # minijinja raises TemplateError, and MemoryError or ValueError come from the interpreter: all say that it cannot be used.
            self._unreadable = RenderError(_sentence(error))

    def render(self, values: Mapping[str, Any]) -> list[bytes]:
        """Each part for one recipient, in the order in which they were loaded. Raises RenderError."""
        if self._unreadable is not None:
            raise self._unreadable
        if self._shadowed:
            values = _shadow(values, self._shadowed)
        try:
            rendered = [self._environment.render_template(name, **values).encode() for name in self._parts]
        except MemoryError:
            raise  # a child that ran out of memory once is of no further use, and the template is to blame
        except Exception as error:
            if isinstance(error.__cause__, MemoryError):
                raise error.__cause__ from error
            # minijinja raises TemplateError, and whatever the filters raise on values of another kind.
            raise RenderError(_sentence(error)) from error
        if any(len(part) > MOST_OCTETS for part in rendered):
            raise RenderError(f"A part of the message is larger than {MOST_OCTETS:,} octets.")
        return rendered


def _printer(place: Place) -> Callable[[object], str]:
    def encoded(value: object) -> str:
        text = _clean(value)
        return (encode_for(place, text) + SOFT_BREAK).decode() if text else ""

    # A first name stands in several places of one message and in those of many recipients.
    remembered = lru_cache(_REMEMBERED)(encoded)

    def printed(value: object) -> str:
        # Only strings: 1 and True are one key, and two sentences.
        return remembered(value) if isinstance(value, str) and len(value) <= _SHORT else encoded(value)

    return printed


def _clean(value: object) -> str:
    return clean_text(text_of(value))


def _shadow(value: Any, names: Mapping[str, None]) -> Any:
    """The same value, whose every dict has at least an empty field of each name."""
    if isinstance(value, Mapping):
        return {**names, **{key: _shadow(inner, names) for key, inner in value.items()}}
    return [_shadow(inner, names) for inner in value] if isinstance(value, list) else value


def _in_target(text: str) -> str:
    # Encoded twice: once as part of the target, once because the target is part of the tracking URL.
    return escape_url_part(text)


def _default(value: object, otherwise: object = "", _also_false: bool = True) -> object:
    return otherwise if value is None or value == "" or (isinstance(value, str) and value.isspace()) else value


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
