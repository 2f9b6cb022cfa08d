"""Links, unsubscribe and the pixel (TRK-3, UNS-7)."""

from __future__ import annotations

import re
from collections.abc import Callable
from email.message import EmailMessage
from urllib.parse import parse_qs, urlsplit

import pytest

from posthouse.composing import CompiledMessage
from posthouse.mail.tokens import Purpose, Subject, Tokens
from posthouse.model.errors import TokenWrong

Compile = Callable[..., CompiledMessage]
Compose = Callable[..., EmailMessage]
Read = Callable[[EmailMessage], str]
COPY = Subject(3, 120, 45, 1234567, 9876543)


def hrefs(page: str) -> list[str]:
    return [href.replace("&amp;", "&") for href in re.findall(r'href="([^"]*)"', page)]


def test_static_links_name_a_row_of_the_campaigns_table(
    compiled: Compile, received: Compose, html_of: Read, text_of: Read, tokens: Tokens
) -> None:
    message = compiled(
        html='<a href="https://a.example/?x=1&amp;y=2#z">A</a> <a href=" HTTP://b.example ">B</a> <a href="https://a.example/?x=1&amp;y=2#z">again</a>'
        '<!--[if mso]><v:roundrect href="https://c.example/?p=1&amp;q=2"></v:roundrect><![endif]-->'
    )
    assert message.links == ("https://a.example/?x=1&y=2#z", "HTTP://b.example", "https://c.example/?p=1&q=2")
    mail = received(message)
    found = hrefs(html_of(mail))
    assert [href.rpartition("/")[2] for href in found] == ["0", "1", "0", "2"]
    token = found[0].removeprefix("https://mail.example.com/c/").removesuffix("/0")
    assert tokens.open_link(Purpose.CLICK, token) == COPY
    assert text_of(mail) == f"A [1] B [2] again [1]\n\n[1] {found[0]}\n[2] {found[1]}\n"


@pytest.mark.parametrize(
    "href",
    [
        "mailto:a@b.example",
        "tel:+123",
        "#top",
        "",
        "sms:1",
        "javascript:x",
        "//cdn.example/x",
        "/relative",
        "{{ unsubscribe_url }}",
    ],
)
def test_what_must_not_be_rewritten_is_left(compiled: Compile, received: Compose, html_of: Read, href: str) -> None:
    message = compiled(html=f'<a href="{href}">x</a>')
    assert message.links == ()
    assert "/c/" not in html_of(received(message))
    assert "/r/" not in html_of(received(message))


def test_a_relative_link_warns(compiled: Compile) -> None:
    (warning,) = compiled(html='<a href="/offer">x</a>').warnings
    assert "/offer" in warning


def test_a_link_can_opt_out_in_both_parts(compiled: Compile, received: Compose, html_of: Read, text_of: Read) -> None:
    message = compiled(
        html='<a data-posthouse-track="off" href="https://a.example/">x</a>', text="See https://a.example/."
    )
    mail = received(message)
    assert message.links == ()
    assert '<a href="https://a.example/">x</a>' in html_of(mail)
    assert text_of(mail) == "See https://a.example/.\n"


def test_tracking_can_be_off(compiled: Compile, received: Compose, html_of: Read) -> None:
    message = compiled(html='<a href="https://a.example/?q={{ q }}">x</a>', track_clicks=False)
    assert hrefs(html_of(received(message, q="a b&c"))) == ["https://a.example/?q=a%20b%26c"]


def test_addresses_in_a_given_text_are_tracked(compiled: Compile, received: Compose, text_of: Read) -> None:
    message = compiled(text="See https://a.example/x, or (http://b.example).")
    assert message.links == ("https://a.example/x", "http://b.example")
    assert re.fullmatch(
        r"See https://mail\.example\.com/c/[\w-]+/0, or \(https://mail\.example\.com/c/[\w-]+/1\)\.\n",
        text_of(received(message)),
    )


@pytest.mark.parametrize(
    ("draft", "target"),
    [
        ({"html": '<a href="https://a.example/{{ id }}?q={{ q }}">x</a>'}, "https://a.example/1%2F2?q=a%26b%20%C3%A9"),
        ({"html": '<a href="{{ url }}">x</a>'}, "https://z.example/?a=b&c=%20d"),
        ({"html": '<a href="{{ percent }}">x</a>'}, "https://z.example/100%25&%20"),
        ({"html": '<a href="{{ url }}&more={{ q }}">x</a>'}, "https://z.example/?a=b&c=%20d&more=a%26b%20%C3%A9"),
        ({"html": "<a href=\"https://a.example/{{ nope|default('none') }}\">x</a>"}, "https://a.example/none"),
        ({"text": "See https://a.example/{{ id }}?q={{ q }}"}, "https://a.example/1%2F2?q=a%26b%20%C3%A9"),
        ({"text": "See https://a.example/{{ nope|default('none') }}."}, "https://a.example/none"),
    ],
)
def test_a_link_with_blanks_is_sealed_for_one_copy(
    compiled: Compile,
    received: Compose,
    html_of: Read,
    text_of: Read,
    tokens: Tokens,
    draft: dict[str, str],
    target: str,
) -> None:
    message = compiled(**draft)
    assert message.links == ()
    assert not message.engine
    mail = received(
        message, id="1/2", q="a&b é", url="https://z.example/?a=b&c= d", percent="https://z.example/100%&%20"
    )
    found = hrefs(html_of(mail))[0] if "html" in draft else text_of(mail).split()[1].rstrip(".")
    parts = urlsplit(found)
    query = parse_qs(parts.query, strict_parsing=True)
    assert query["to"] == [target]
    token = parts.path.removeprefix("/r/")
    assert tokens.open_link(Purpose.CLICK, token) == COPY
    tokens.open_text(Purpose.CLICK, COPY, target, query["s"][0])
    with pytest.raises(TokenWrong):
        tokens.open_text(Purpose.CLICK, COPY, "https://evil.example/", query["s"][0])


@pytest.mark.parametrize("url", ["javascript:alert(1)", "data:text/html,x", "//evil.example", "evil", "ht\ntp://x"])
def test_a_value_that_is_no_web_address_leads_nowhere(
    compiled: Compile, received: Compose, html_of: Read, url: str
) -> None:
    for tracked in (True, False):
        page = html_of(
            received(compiled(html='<a href="{{ url }}">x</a><img src="{{ url }}">', track_clicks=tracked), url=url)
        )
        assert hrefs(page) == ["#"]
        assert 'src="#"' in page


def test_values_cannot_leave_the_attribute_they_stand_in(compiled: Compile, received: Compose, html_of: Read) -> None:
    message = compiled(html='<p title="{{ x }}" style="background:url(https://i.example/{{ x }})">{{ x }}</p>')
    page = html_of(received(message, x="\"'><b>)"))
    assert 'title="&#34;&#39;&gt;&lt;b&gt;)"' in page
    assert "url(https://i.example/%22%27%3E%3Cb%3E%29)" in page
    assert "<b>" not in page


def test_the_pixel_is_last_in_the_body(
    compiled: Compile, received: Compose, html_of: Read, text_of: Read, tokens: Tokens
) -> None:
    mail = received(compiled(html="<p>x</p>", track_opens=True))
    match = re.search(r'<img src="https://mail\.example\.com/o/([\w-]+)\.gif"[^>]*></body></html>\n$', html_of(mail))
    assert match is not None
    assert tokens.open_link(Purpose.OPEN, match[1]) == COPY
    assert text_of(mail) == "x\n"
    assert "<img" not in html_of(received(compiled(html="<p>x</p>", track_opens=False)))


def test_the_body_link_unsubscribes(
    compiled: Compile, received: Compose, html_of: Read, text_of: Read, tokens: Tokens
) -> None:
    mail = received(compiled(html='<a href="{{ unsubscribe_url }}">Stop</a>'))
    (href,) = hrefs(html_of(mail))
    assert tokens.open_link(Purpose.UNSUBSCRIBE, href.removeprefix("https://mail.example.com/u/")) == COPY
    assert text_of(mail) == f"Stop ({href})\n"
