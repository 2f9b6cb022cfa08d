"""A draft becomes a compiled message, or one sentence says why not."""

from __future__ import annotations

from collections.abc import Callable
from email.message import EmailMessage
from hashlib import sha256
from typing import Any

import pytest

from posthouse.composing import CompiledMessage, missing_fields
from posthouse.model.errors import AddressWrong, TemplateWrong

Compile = Callable[..., CompiledMessage]
Compose = Callable[..., EmailMessage]
Read = Callable[[EmailMessage], str]


def test_a_message_of_blanks(compiled: Compile, received: Compose, text_of: Read, html_of: Read) -> None:
    message = compiled(
        subject="For {{ first_name }}",
        html="<p>Hi {{ contact.first_name }} in {{ city|default('town') }}, {{ email }}</p>",
        text="Hi {{ first_name }} in {{ city | d('town', true) }}, {{ contact.email }}\n",
    )
    assert not message.engine
    assert message.fields == ("first_name",)
    mail = received(message, first_name="Zoë & <Co>", city="")
    assert mail["Subject"] == "For Zoë & <Co>"
    assert text_of(mail) == "Hi Zoë & <Co> in town, jane@example.org\n"
    assert "<p>Hi Zoë &amp; &lt;Co&gt; in town, jane@example.org</p>" in html_of(mail)
    assert "in town," in text_of(received(message, first_name="x", city=" \t"))


def test_a_contacts_own_field_may_be_called_like_a_special_blank(
    compiled: Compile, received: Compose, text_of: Read
) -> None:
    message = compiled(text="{{ contact.unsubscribe_url }}")
    assert message.fields == ("unsubscribe_url",)
    assert not message.has_body_unsubscribe
    assert text_of(received(message, unsubscribe_url="mine")) == "mine\n"


def test_a_draft_that_holds_our_marks_is_still_read_rightly(
    compiled: Compile, received: Compose, text_of: Read
) -> None:
    mark = f"q{sha256(bytes([0])).hexdigest()[:8]}n0z"
    assert text_of(received(compiled(text=f"{mark} {{{{ a }}}}"), a="x")) == f"{mark} x\n"


def test_comments_and_raw_blocks_need_no_engine(compiled: Compile, received: Compose, text_of: Read) -> None:
    message = compiled(text="a{# no #}b {% raw %}{{ kept }}{% endraw %} {{- x }}")
    assert not message.engine
    assert text_of(received(message, x="!")) == "ab {{ kept }}!\n"


def test_numbers_booleans_and_null_are_printed_as_people_write_them(
    compiled: Compile, received: Compose, text_of: Read
) -> None:
    message = compiled(text="{{ n }} {{ yes }} {{ no }} {{ zero }} {{ nothing|default('-') }}")
    fields: dict[str, Any] = {"n": 1.5, "yes": True, "no": False, "zero": 0, "nothing": None}
    assert text_of(received(message, **fields)) == "1.5 true false 0 -\n"


def test_the_postal_address_is_static_and_found(
    compiled: Compile, received: Compose, text_of: Read, html_of: Read
) -> None:
    message = compiled(html="<p>{{ postal_address }}</p>")
    assert message.has_postal_address
    mail = received(message)
    assert "Post House Ltd<br>1 Mail Lane &amp; Co<br>London" in html_of(mail)
    assert text_of(mail) == "Post House Ltd\n1 Mail Lane & Co\nLondon\n"
    assert not compiled(html="<p>x</p>").has_postal_address
    assert compiled(
        text="Write to Post House Ltd\n 1 Mail Lane & Co, ...\nPost House Ltd 1 Mail Lane & Co London"
    ).has_postal_address


def test_a_body_link_to_unsubscribe_is_found_in_every_part(compiled: Compile) -> None:
    link = '<a href="{{ unsubscribe_url }}">Stop</a>'
    assert compiled(html=link).has_body_unsubscribe
    assert not compiled(html=link, text="no link here").has_body_unsubscribe
    assert compiled(html=link, text="{{ unsubscribe_url }}").has_body_unsubscribe
    assert compiled(text="{% if x %}{{ unsubscribe_url ~ '?l=fr' }}{% endif %}").has_body_unsubscribe


def test_css_is_inlined_and_media_rules_stay(compiled: Compile, received: Compose, html_of: Read) -> None:
    page = html_of(received(compiled(html="<style>p{color:red} @media print{p{color:blue}}</style><p>x</p>")))
    assert '<p style="color: red;">' in page
    assert "@media print" in page


def test_mjml_becomes_html_and_wins(compiled: Compile, received: Compose, html_of: Read, text_of: Read) -> None:
    mjml = (
        "<mjml><mj-body><mj-section><mj-column><mj-text>Dear {{ name }}, {% if vip %}<b>very</b>{% endif %} good</mj-text>"
        '<mj-button href="https://shop.example/a?b=1&amp;c=2">Buy</mj-button></mj-column></mj-section></mj-body></mjml>'
    )
    message = compiled(mjml=mjml, html="<p>not this</p>")
    assert message.engine
    assert message.links == ("https://shop.example/a?b=1&c=2",)
    blanks = compiled(mjml=mjml.replace("{% if vip %}", "").replace("{% endif %}", ""))
    mail = received(blanks, name="Zoë")
    assert "Dear Zoë, <b>very</b> good" in html_of(mail)
    assert text_of(mail).startswith("Dear Zoë, very good\n")


def test_storage_gives_back_an_equal_message(compiled: Compile) -> None:
    message = compiled(
        subject="{{ a }}",
        html='<a href="https://x.example/{{ id }}">{{ a|default("x") }}</a>{% if b %}b{% endif %}',
        text="{{ unsubscribe_url }} https://y.example/ https://z.example/{{ id }}",
    )
    assert CompiledMessage.from_bytes(message.to_bytes()) == message
    with pytest.raises(TemplateWrong, match="another version"):
        CompiledMessage.from_bytes(b"\x00" + message.to_bytes()[1:])


def test_the_same_draft_gives_the_same_bytes(compiled: Compile) -> None:
    draft = {"subject": "{{ a }}", "html": "<p>{{ a }} <a href='https://x.example'>x</a>{% if b %}b{% endif %}</p>"}
    assert compiled(**draft).to_bytes() == compiled(**draft).to_bytes()


def test_html_that_gmail_would_clip_warns(compiled: Compile) -> None:
    assert compiled(html="<p>small</p>").warnings == ()
    (warning,) = compiled(html=f"<p>{'x' * 102_000}</p>").warnings
    assert "Gmail" in warning


def test_missing_fields_of_a_contact(compiled: Compile) -> None:
    message = compiled(subject="{{ a }}", text="{{ b }} {{ c|default('') }} {{ email }} https://x.example/{{ d }}")
    assert message.fields == ("a", "b", "d")
    assert missing_fields(message, {"a": "x", "b": 0, "d": "y"}) == ()
    assert missing_fields(message, {"a": " ", "b": None}) == ("a", "b", "d")


def test_fields_that_an_engine_template_always_prints_are_required(compiled: Compile) -> None:
    message = compiled(
        text="{{ a|upper }} {{ contact.b }} {% if c %}{{ c }}{% endif %} {% for d in e %}{{ d }}{% endfor %} {{ f|d('x')|upper }}"
    )
    assert message.fields == ("a", "b")


@pytest.mark.parametrize(
    ("draft", "sentence"),
    [
        ({}, "no body"),
        ({"text": "a\n{{ x"}, r"Text, line 2: "),
        ({"text": "a\n{% if x %}b"}, r"Text, line 2: "),
        ({"text": "{{ view_url }}"}, r"Text, line 1: The blank view_url .*not offered yet"),
        ({"text": "x", "subject": "  "}, r"Subject: It is empty"),
        ({"html": "<p>\n\n<style>p{color:{{ c }}}</style>"}, r"HTML, line 3: .*inside <style>"),
        ({"html": "<p>\n<td {% if a %}class='x'{% endif %}>"}, r"HTML, line 2: .*between attributes"),
        ({"html": "<p title={{ x }}>"}, r"HTML, line 1: .*without quotes"),
        ({"html": "<!--[if mso]><a title={{ x }}>y</a><![endif]-->"}, r"HTML, line 1: .*quotes around it"),
        ({"mjml": "<mjml><mj-body><mj-foo></mj-body>"}, r"MJML: It cannot be turned into HTML"),
        ({"html": "<p>\n<a href='x' href='{{ y }}'>x</a>"}, r"HTML, line 2: .*would be lost"),
        ({"html": "<div style='display:none'>{% if a %}</div><p>x{% endif %}</p>"}, r"Text: .*within the same element"),
        ({"html": "<div>" * 3000}, r"HTML: .*nested hundreds deep"),
        ({"text": "x", "from_address": "zoë@example.com"}, r"From: .*outside ASCII"),
    ],
)
def test_a_wrong_draft_gets_one_sentence(compiled: Compile, draft: dict[str, str], sentence: str) -> None:
    with pytest.raises(TemplateWrong, match=sentence):
        compiled(**draft)


def test_a_from_that_is_no_address_is_refused(compiled: Compile) -> None:
    with pytest.raises(AddressWrong):
        compiled(text="x", from_address="a@b.example>\r\nBcc: c@d.example")


def test_code_in_a_conditional_comment_stays_out_of_the_text(compiled: Compile) -> None:
    message = compiled(html="<p>x</p><!--[if mso]>{% if a %}y{% endif %}<![endif]-->")
    assert [part.name for part in message.sources] == ["HTML"]


def test_loops_stay_inside_tables_and_conditions_inside_attributes(compiled: Compile) -> None:
    message = compiled(
        html='<table>{% for r in rows %}<tr class="{% if r.x %}on{% endif %}"><td>{{ r.y }}</td></tr>{% endfor %}</table>'
    )
    (source,) = [s for part, s in message.sources.items() if part.name == "HTML"]
    flat = source.replace("=\r\n", "")
    assert (
        flat.index("<table>")
        < flat.index("{% for r in rows %}")
        < flat.index("<tr class=3D")
        < flat.index("{% endfor %}")
        < flat.index("</table>")
    )
    assert 'class=3D"{% if r.x %}on{% endif %}"' in flat
