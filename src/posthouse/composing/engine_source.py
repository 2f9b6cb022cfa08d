"""The template that the render child is given for a part with more than blanks."""

from __future__ import annotations

from posthouse.composing.layout import PartLayout
from posthouse.model.errors import TemplateWrong


def engine_source(part: PartLayout) -> str:
    """Comes with the render child."""
    raise TemplateWrong(f"{part.part.name}: only blanks are understood so far.")
