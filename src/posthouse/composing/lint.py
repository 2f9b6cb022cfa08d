"""What a template may not do."""

from __future__ import annotations


def lint(source: str, where: str) -> None:
    """Raises TemplateWrong."""


def required_fields(source: str, where: str) -> list[str]:
    """Merge fields that are printed whatever happens."""
    return []
