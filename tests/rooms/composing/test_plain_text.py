"""The text part that is made from the HTML."""

from __future__ import annotations

from collections.abc import Callable
from email.message import EmailMessage

import pytest

from posthouse.composing import CompiledMessage


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<h1>Title</h1><p>One</p><p>Two<br>lines</p>", "Title\n\nOne\n\nTwo\nlines\n"),
        ("<p>  many \n  spaces&nbsp;here </p>", "many spaces here\n"),
        ("<ul><li>a</li><li>b <b>c</b></li></ul>after", "- a\n- b c\n\nafter\n"),
        ("<table><tr><td>Name</td><td>Price</td></tr><tr><td>Tea</td><td>2</td></tr></table>", "Name Price\nTea 2\n"),
        ("<p>x</p><hr><p>y</p>", f"x\n\n{'-' * 40}\n\ny\n"),
        ("<p>a <img src='https://i.example/x.png' alt='a cat'> b</p>", "a a cat b\n"),
        ("<script>x</script><style>y</style><title>z</title><p>seen</p>", "seen\n"),
        ("<div style='display:none'>preview</div><p>seen</p>", "seen\n"),
        ("<div>Sale" + "&#847;&zwnj;&nbsp;" * 20 + "</div><p>seen</p>", "Sale\n\nseen\n"),
        ("<p>نمی\u200cخواهم</p>", "نمی\u200cخواهم\n"),
        (
            "<p><a href='mailto:a@b.example'>a@b.example</a> <a href='tel:1'>call</a> <a href='#x'>up</a></p>",
            "a@b.example call [1] up\n\n[1] tel:1\n",
        ),
        ("<div><div>a</div><div>b</div></div>", "a\nb\n"),
        ("", "\n"),
    ],
)
def test_html_as_text(
    compiled: Callable[..., CompiledMessage],
    received: Callable[..., EmailMessage],
    text_of: Callable[[EmailMessage], str],
    html: str,
    text: str,
) -> None:
    assert text_of(received(compiled(html=html))) == text
