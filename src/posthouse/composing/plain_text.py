"""The text part of a message, made from its HTML: links as footnotes, table rows as lines, pictures by their alternative text."""

from __future__ import annotations

import re

from selectolax.lexbor import LexborHTMLParser, LexborNode

from posthouse.composing.marks import Click, Marks
from posthouse.composing.tags import BlockTag, template_wrong

_SKIPPED = frozenset({"head", "style", "script", "title", "template", "noscript", "svg", "object"})
_PARAGRAPHS = frozenset(
    {"p", "h1", "h2", "h3", "h4", "h5", "h6", "ul", "ol", "table", "blockquote", "pre", "hr", "figure"}
)
_LINES = frozenset(
    {"div", "tr", "li", "section", "article", "header", "footer", "address", "dt", "dd", "center", "caption"}
)
_CELLS = frozenset({"td", "th"})
_SPACES = re.compile(r"[ \t\r\n\f]+")
# What senders put behind a preview text, so that clients show nothing else there. Single ones are part of words in many scripts.
_PADDING = re.compile("(?:[\u00ad\u034f\u200b-\u200d\u2007\u2060\ufeff][ \u00a0\r\n]*){3,}")
_HIDDEN = re.compile(r"display\s*:\s*none", re.IGNORECASE)
_LINE, _PARAGRAPH = 1, 2


def plain_text(tree: LexborHTMLParser, marks: Marks) -> str:
    """The text of a parsed HTML message, with the same marks. Lines are not wrapped: that is the reader's program's work.

    Raises TemplateWrong for elements nested hundreds deep.
    """
    if tree.body is None:
        return "\n"
    writer = _Writer(marks)
    try:
        writer.children(tree.body)
    except RecursionError as error:
        raise template_wrong(
            "HTML", None, "Its elements are nested hundreds deep. Give a text part of your own, or simplify it."
        ) from error
    return writer.finished()


class _Writer:
    def __init__(self, marks: Marks) -> None:
        self._marks = marks
        self._lines: list[str] = [""]
        self._footnotes: dict[str, int] = {}

    def finished(self) -> str:
        lines = [line.rstrip() for line in self._lines]
        notes = [f"[{number}] {href}" for href, number in self._footnotes.items()]
        text = "\n".join(lines).strip("\n")
        return "\n\n".join(block for block in (text, "\n".join(notes)) if block) + "\n"

    def children(self, node: LexborNode) -> None:
        child = node.child
        while child is not None:
            self._node(child)
            child = child.next

    def _node(self, node: LexborNode) -> None:
        tag = node.tag or ""
        if tag == "-text":
            self._say(node.text_content or "")
        elif tag == "-comment":
            self._comment(node.html or "")
        elif tag == "br":
            self._lines.append("")
        elif tag == "img":
            self._say(node.attributes.get("alt") or "")
        elif tag == "a":
            self._link(node)
        elif tag not in _SKIPPED and not _HIDDEN.search(node.attributes.get("style") or ""):
            self._element(node, tag)

    def _element(self, node: LexborNode, tag: str) -> None:
        gap = _PARAGRAPH if tag in _PARAGRAPHS else _LINE if tag in _LINES else 0
        self._break(gap)
        if tag == "li":
            self._say("- ")
        elif tag == "hr":
            self._say("-" * 40)
        elif tag in _CELLS:
            self._say(" ")
        self.children(node)
        self._break(gap)

    def _link(self, node: LexborNode) -> None:
        before = self._lines[-1]
        self.children(node)
        href = node.attributes.get("href") or ""
        said = self._lines[-1].removeprefix(before).strip()
        if not href or href.startswith("#") or href.removeprefix("mailto:").removeprefix("tel:") == said:
            return
        word = self._marks.word.fullmatch(href)
        if (word and isinstance(self._marks.of(word), Click)) or not self._marks.word.search(href):
            self._say(f" [{self._footnotes.setdefault(href, len(self._footnotes) + 1)}]")
        else:
            # A target with blanks may use a loop's variable: it must stay inside the loop.
            self._say(f" ({href})")

    def _comment(self, comment: str) -> None:
        word = self._marks.word.search(comment)
        if word and isinstance(self._marks.of(word), BlockTag) and not comment.startswith("<!--["):
            self._lines[-1] += word[0]

    def _say(self, text: str) -> None:
        text = _SPACES.sub(" ", _PADDING.sub("", text)).replace("\u00a0", " ")
        if not self._lines[-1] or self._lines[-1].endswith(" "):
            text = text.lstrip(" ")
        self._lines[-1] += text

    def _break(self, gap: int) -> None:
        if not gap:
            return
        if self._lines[-1].strip():
            self._lines.append("")
        if gap == _PARAGRAPH and len(self._lines) > 1 and self._lines[-2].strip():
            self._lines.append("")
