"""Which links are tracked, and the campaign's table of their targets (TRK-3).

A tracking URL names a row of this table and never carries a target of its own, so nobody can make it lead elsewhere. A target with
blanks in it differs for each recipient; such a link carries its target, sealed with our key for this one copy.
"""

from __future__ import annotations

import re

from posthouse.composing.marks import Click, Marks, Personal
from posthouse.composing.tags import UNSUBSCRIBE_URL, SpecialTag

_WEB = re.compile(r"https?://[^\s/?#]", re.IGNORECASE)
_SCHEME = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_URL_IN_TEXT = re.compile(r"https?://[^\s<>\"'`]+", re.IGNORECASE)
_PUNCTUATION_AFTER = ".,;:!?)]}*_"


class LinkTable:
    """Gives every tracked target its place, in order of first appearance; the same target has one place."""

    def __init__(self, marks: Marks, tracking: bool) -> None:
        self._marks = marks
        self._tracking = tracking
        self._words: dict[str, str] = {}
        self._left: set[str] = set()
        self.relative: list[str] = []

    @property
    def targets(self) -> tuple[str, ...]:
        """The tracked targets; a tracking URL's index is a place here."""
        return tuple(self._words)

    def leave(self, target: str) -> None:
        """Note a target that its author wants untracked, in the text part too."""
        self._left.add(target)

    def tracked(self, href: str) -> str:
        """The mark of a tracking link to `href`, or `href` itself where it must not be rewritten."""
        begins_with_mark = self._marks.word.match(href)
        if not begins_with_mark and not _WEB.match(href):
            if href and not href.startswith("#") and not _SCHEME.match(href):
                self.relative.append(href)
            return href
        if not self._tracking or href in self._left or self._is_ours(href):
            return href
        if self._marks.word.search(href):
            return self._marks.add(Personal(href))
        if href not in self._words:
            self._words[href] = self._marks.add(Click(len(self._words)))
        return self._words[href]

    def track_text(self, marked: str) -> str:
        """A text part with its web addresses tracked."""

        def rewrite(found: re.Match[str]) -> str:
            url = found[0].rstrip(_PUNCTUATION_AFTER)
            return self.tracked(url) + found[0][len(url) :]

        return _URL_IN_TEXT.sub(rewrite, marked)

    def _is_ours(self, href: str) -> bool:
        tags = (self._marks.of(word) for word in self._marks.word.finditer(href))
        return any(
            not hasattr(tag, "line") or (isinstance(tag, SpecialTag) and tag.name == UNSUBSCRIBE_URL) for tag in tags
        )
