"""Composing: a template is compiled once, and a recipient costs only its blanks.

It turns what a person gave into a `CompiledMessage` (links tracked, CSS inlined, static text already transfer-encoded), fills it for
one recipient, writes the header and signs. It never touches the database, never reads a clock, and never renders a template
that has more than blanks in its own process: that is the render child's work, and the child never sees a key.

Names are loaded on first use: the render child lives in this package and must not pay for what only its parent needs.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from posthouse.composing.compiled import CompiledMessage
    from posthouse.composing.compiling import compile_message
    from posthouse.composing.composer import Composer, missing_fields
    from posthouse.composing.draft import Draft, Frame, Lacking, Rendered, RenderFailed
    from posthouse.composing.proof import prove_template
    from posthouse.composing.render_child import RenderChild

__all__ = [
    "CompiledMessage",
    "Composer",
    "Draft",
    "Frame",
    "Lacking",
    "RenderChild",
    "RenderFailed",
    "Rendered",
    "compile_message",
    "missing_fields",
    "prove_template",
]

_HOMES = {
    "CompiledMessage": "compiled",
    "Composer": "composer",
    "Draft": "draft",
    "Frame": "draft",
    "Lacking": "draft",
    "RenderChild": "render_child",
    "RenderFailed": "draft",
    "Rendered": "draft",
    "compile_message": "compiling",
    "missing_fields": "composer",
    "prove_template": "proof",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
