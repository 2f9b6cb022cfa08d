"""HTML, once per campaign: MJML to HTML, CSS inlined, links tracked, the open pixel, a text part."""

from __future__ import annotations

import html
import re

import css_inline
import mjml
from msgspec import Struct
from selectolax.lexbor import LexborHTMLParser

from posthouse.composing.links import LinkTable
from posthouse.composing.marks import Marks, Pixel
from posthouse.composing.plain_text import plain_text
from posthouse.composing.tags import template_wrong

_INLINER = css_inline.CSSInliner(load_remote_stylesheets=False, keep_at_rules=True)
_CONDITIONAL = re.compile(r"<!--\[if[^\]]*\]>.*?<!\[endif\]-->", re.DOTALL | re.IGNORECASE)
_CONDITIONAL_HREF = re.compile(r"(\bhref\s*=\s*)(\"[^\"]*\"|'[^']*')", re.IGNORECASE)
_UNTRACKED = "data-posthouse-track"
_BODY_END = re.compile(r"</body\s*>", re.IGNORECASE)


class Markup(Struct, frozen=True):
    """The HTML of a message with marks in it, and the text made from it."""

    html: str
    text: str


def prepare_markup(source: str, is_mjml: bool, marks: Marks, links: LinkTable, track_opens: bool) -> Markup:
    """The whole pipeline. `source` is the template as given. Raises TemplateWrong."""
    where = "MJML" if is_mjml else "HTML"
    marked = marks.mark_markup(source, where)
    inlined = _inline_css(_mjml_to_html(marked) if is_mjml else marked, where)
    marks.check_kept(marked, inlined, where)
    tree = LexborHTMLParser(inlined)
    _track_anchors(tree, links)
    tracked = _CONDITIONAL.sub(lambda comment: _track_conditional(comment[0], links), tree.html or "")
    if track_opens:
        tracked = _with_pixel(tracked, marks)
    return Markup(tracked.rstrip() + "\n", plain_text(tree, marks))


def _mjml_to_html(marked: str) -> str:
    try:
        return str(mjml.mjml2html(marked))
    except ValueError as error:
        raise template_wrong("MJML", None, f"It cannot be turned into HTML: {error}.") from error


def _inline_css(markup: str, where: str) -> str:
    try:
        return str(_INLINER.inline(markup))
    except (ValueError, css_inline.InlineError) as error:
        raise template_wrong(where, None, f"Its style sheets cannot be inlined: {error}.") from error


def _track_anchors(tree: LexborHTMLParser, links: LinkTable) -> None:
    for node in tree.css("a[href], area[href]"):
        href = (node.attributes.get("href") or "").strip()
        if node.attributes.get(_UNTRACKED, "") == "off":
            links.leave(href)
        else:
            node.attrs["href"] = links.tracked(href)
    for node in tree.css(f"[{_UNTRACKED}]"):
        del node.attrs[_UNTRACKED]


def _track_conditional(comment: str, links: LinkTable) -> str:
    def rewrite(href: re.Match[str]) -> str:
        quote = href[2][0]
        target = html.unescape(href[2][1:-1]).strip()
        return f"{href[1]}{quote}{html.escape(links.tracked(target))}{quote}"

    return _CONDITIONAL_HREF.sub(rewrite, comment)


def _with_pixel(markup: str, marks: Marks) -> str:
    pixel = f'<img src="{marks.add(Pixel())}" width="1" height="1" alt="" style="border:0">'
    ends = list(_BODY_END.finditer(markup))
    at = ends[-1].start() if ends else len(markup)
    return f"{markup[:at]}{pixel}{markup[at:]}"
