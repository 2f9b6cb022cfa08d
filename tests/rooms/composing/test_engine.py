"""Templates with more than blanks: rendered in a child process that may die."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from urllib.parse import parse_qs, urlsplit

import dkim
import psutil  # type: ignore[import-untyped]
import pytest

from posthouse.composing import (
    CompiledMessage,
    Composer,
    Draft,
    Frame,
    Lacking,
    RenderChild,
    Rendered,
    RenderFailed,
    compile_message,
    prove_template,
)
from posthouse.composing.render_child import ChildUnavailable
from posthouse.mail.dkim import DkimSigner
from posthouse.mail.tokens import Purpose, Subject, Tokens
from posthouse.model.errors import TemplateWrong
from posthouse.model.messages import Composed, Copy

Compile = Callable[..., CompiledMessage]
CopyFor = Callable[..., Copy]
Read = Callable[[EmailMessage], str]
LETTER = """<html><body>
<h1>Hello {{ first_name|title }} = {{ "{" }}</h1>
<table>{% for item in items %}<tr class="{% if loop.first %}first{% endif %}"><td>{{ item.name }}&nbsp;é</td>
<td><a href="https://shop.example/{{ item.id }}?q=1">buy</a> <a href="{{ item.url }}">see</a></td></tr>{% endfor %}</table>
{% if vip -%}   <p>.{{ unsubscribe_url }}</p>{% else %}<p>From now on</p>{% endif %}
<a href="https://static.example/">static</a> <a href="{{ unsubscribe_url }}">Stop</a></body></html>
"""
HANGS = "{% set x = [1] %}" + "{% set x = x + x %}" * 40 + "{{ x }}"


@pytest.fixture
def letter(compiled: Compile) -> CompiledMessage:
    return compiled(
        subject="{% if vip %}Dear {% endif %}{{ first_name|upper }} { {{ n|d('') }}", html=LETTER, track_opens=True
    )


async def test_a_rendered_message_reads_as_it_was_meant(
    letter: CompiledMessage,
    frame: Frame,
    tokens: Tokens,
    at: datetime,
    copy_for: CopyFor,
    html_of: Read,
    text_of: Read,
    signers: list[DkimSigner],
    dns: Callable[..., bytes],
) -> None:
    items = [
        {"name": "<b>Tea</b>", "id": "a/b", "url": "https://z.example/?a=b&c"},
        {"name": ".x", "id": 2, "url": "evil:"},
    ]
    copy = copy_for(first_name="zoë & co", items=items, vip=True, n=None)
    composer = Composer(letter, frame, signers, tokens)
    async with RenderChild() as child:
        copies = [copy, copy_for("ö@example.org", first_name="jo")]
        rendered = await composer.render_many(copies, child)
    vip, plain = (
        composer.compose(each, at, made)
        for each, made in zip(copies, rendered, strict=True)
        if isinstance(made, Rendered)
    )
    assert isinstance(vip, Composed)
    assert isinstance(plain, Composed)
    for message in (vip, plain):
        assert [dkim.DKIM(message.content).verify(index, dnsfunc=dns) for index in (0, 1)] == [True, True]
        assert max(map(len, message.content.split(b"\r\n"))) <= 78
        assert b"\r\n." not in message.content
        assert not any(octet in message.content for octet in (b"\x01", b"\x02", b"  ", b" \r\n", b"\r\n\t\r\n"))
    mail = message_from_bytes(vip.content, policy=default)
    assert mail["Subject"] == "Dear ZOË & CO {"
    page = html_of(mail)
    assert "<h1>Hello Zoë &amp; Co = {</h1>" in page
    assert '<tr class="first"><td>&lt;b&gt;Tea&lt;/b&gt;&nbsp;é</td>' in page
    assert '<tr class=""><td>.x&nbsp;é</td>' in page
    assert "<p>.https://mail.example.com/u/" in page
    assert page.count("/c/") == 1
    assert '<a href="#">see</a>' in page
    first = page.split('href="')[1].split('"')[0].replace("&amp;", "&")
    query = parse_qs(urlsplit(first).query, strict_parsing=True)
    assert query["to"] == ["https://shop.example/a%2Fb?q=1"]
    subject = Subject(3, 120, 45, 1234567, 9876543)
    tokens.open_text(Purpose.CLICK, subject, query["to"][0], query["s"][0])
    assert text_of(mail).startswith("Hello Zoë & Co = {\n")
    other = message_from_bytes(plain.content, policy=default)
    assert other["Subject"] == "JO {"
    assert "<p>From now on</p>" in html_of(other)
    assert "<td>" not in html_of(other)


async def test_a_lacking_contact_is_not_rendered(
    letter: CompiledMessage, frame: Frame, tokens: Tokens, copy_for: CopyFor
) -> None:
    async with RenderChild() as child:
        results = await Composer(letter, frame, [], tokens).render_many(
            [copy_for(first_name=""), copy_for(first_name="A")], child
        )
    assert results[0] == Lacking(("first_name",))
    assert isinstance(results[1], Rendered)


async def test_values_that_do_not_fit_fail_alone() -> None:
    sources = {"text": "{{ (1 + n)|_text }}"}
    async with RenderChild() as child:
        answers = await child.render(sources, [{"n": 1}, {"n": "x"}, {"n": 2}])
        assert answers[0] == [b"2=\r\n"]
        assert isinstance(answers[1], RenderFailed)
        assert not answers[1].child_lost
        assert answers[2] == [b"3=\r\n"]
        assert not child.is_quarantined(sources)


async def test_only_the_guilty_recipient_fails_and_the_third_quarantines() -> None:
    sources = {"text": "{% if bad %}" + HANGS + "{% endif %}{{ n|_text }}"}
    batch = [{"n": n, "bad": n in (70, 100, 120)} for n in range(130)]
    async with RenderChild(seconds_per_batch=0.5) as child:
        answers = await child.render(sources, batch)
        failed = {n: answer for n, answer in enumerate(answers) if isinstance(answer, RenderFailed)}
        assert sorted(failed) == [70, 100, *range(120, 130)]
        assert [answer.child_lost for answer in failed.values()] == [True] * 3 + [False] * 9
        assert [answer.quarantined for answer in failed.values()] == [False, False] + [True] * 10
        assert answers[119] == [b"119=\r\n"]
        assert child.is_quarantined(sources)
        assert await child.render({"text": "{{ n|_text }}"}, [{"n": 1}]) == [[b"1=\r\n"]]


async def test_a_child_that_was_killed_by_somebody_else_is_replaced_and_nobody_blamed() -> None:
    sources = {"text": "{{ n|_text }}"}
    async with RenderChild() as child:
        await child.render(sources, [{"n": 1}])
        before = child.pid
        assert before is not None
        os.kill(before, signal.SIGKILL)
        assert await child.render(sources, [{"n": 2}, {"n": 3}]) == [[b"2=\r\n"], [b"3=\r\n"]]
        assert child.pid != before
        assert not child.is_quarantined(sources)


@pytest.mark.parametrize("program", ["/nonexistent/python", "/bin/false"])
async def test_a_child_that_cannot_start_is_nobodys_fault(monkeypatch: pytest.MonkeyPatch, program: str) -> None:
    monkeypatch.setattr(sys, "executable", program)
    sources = {"text": "{{ n|_text }}"}
    async with RenderChild() as child:
        for _ in range(4):
            with pytest.raises(ChildUnavailable, match="cannot be started"):
                await child.render(sources, [{"n": 1}])
        assert not child.is_quarantined(sources)
        assert child.pid is None


async def test_campaigns_take_turns() -> None:
    async with RenderChild() as child:
        results = await asyncio.gather(
            *(child.render({"text": f"{n} {{{{ v|_text }}}}"}, [{"v": "x"}]) for n in range(5))
        )
    assert results == [[[f"{n} x=\r\n".encode()]] for n in range(5)]


async def test_cancelling_leaves_no_half_answer_behind() -> None:
    sources = {"text": "{{ n|_text }}"}
    async with RenderChild() as child:
        await child.render(sources, [{"n": 0}])
        task = asyncio.create_task(child.render(sources, [{"n": n} for n in range(2000)]))
        await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await child.render(sources, [{"n": 7}]) == [[b"7=\r\n"]]


async def test_the_child_knows_no_secret_and_ends_with_close(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTHOUSE_SECRET_KEY_FILE", "/run/secrets/key")
    child = RenderChild()
    await child.render({"text": "x"}, [{}])
    process = psutil.Process(child.pid)
    assert "POSTHOUSE_SECRET_KEY_FILE" not in process.environ()
    assert process.rlimit(psutil.RLIMIT_AS)[0] == 256 * 1024 * 1024
    assert process.rlimit(psutil.RLIMIT_CORE)[0] == process.rlimit(psutil.RLIMIT_FSIZE)[0] == 0
    modules = {os.path.basename(m.path) for m in process.memory_maps()}
    assert not any(name.startswith(("css_inline", "mjml", "lexbor", "_rust", "selectolax")) for name in modules)
    await child.close()
    assert not process.is_running()
    assert child.pid is None


def test_the_child_dies_with_its_parent() -> None:
    """Even while it hangs in a template: the parent is killed without a chance to say goodbye."""
    program = f"""
import asyncio
from posthouse.composing import RenderChild
async def main():
    child = RenderChild(seconds_per_batch=60)
    await child.render({{"text": "x"}}, [{{}}])
    print(child.pid, flush=True)
    await child.render({{"text": {HANGS!r}}}, [{{}}])
asyncio.run(main())
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdout is not None
        child = psutil.Process(int(parent.stdout.readline()))
        parent.kill()
        parent.wait()
        psutil.wait_procs([child], timeout=10)
        assert not child.is_running() or child.status() == psutil.STATUS_ZOMBIE


async def test_names_of_dict_methods_are_fields_like_any_other() -> None:
    """minijinja would find the method where the field is missing."""
    sources = {
        "text": "{% for i in items %}{{ i.values|_text }}{% endfor %}{{ keys|_text }}{{ contact.pop|_text }}{{ rows.append|_text }}"
    }
    async with RenderChild() as child:
        answers = await child.render(
            sources,
            [
                {"contact": {}, "rows": []},
                {"items": [{"values": 1}, {}], "keys": "k", "contact": {"pop": "p"}, "rows": [1]},
            ],
        )
    assert answers == [[b""], [b"1=\r\nk=\r\np=\r\n"]]


async def test_proof_passes_a_normal_newsletter(letter: CompiledMessage, compiled: Compile) -> None:
    await prove_template(
        letter, [{"first_name": "Jo", "n": 1, "items": [{"name": "x", "id": 1, "url": "https://x.example"}]}]
    )
    await prove_template(compiled(text="{{ a }}"), [])


async def test_proof_refuses_what_fails_for_a_real_contact_or_kills_for_a_hostile_one(
    compiled: Compile, frame: Frame, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(TemplateWrong, match="real contact"):
        await prove_template(compiled(text="{{ a + 1 }}"), [{"a": "x"}])
    await prove_template(compiled(text="{{ a + 1 }}"), [{"a": 1}])
    loops = "{% for x in a %}{% for y in a %}{{ b }}{{ b }}{{ b }}{{ b }}{{ b }}{{ b }}{% endfor %}{% endfor %}"
    greedy = compile_message(Draft(subject="x", from_address="a@example.com", text=f"{loops}"), frame)
    # Each rendering ends by its fuel after a good second; a cap below that must stop the child, on a fast machine too.
    monkeypatch.setattr("posthouse.composing.proof._SECONDS", 0.1)
    with pytest.raises(TemplateWrong, match="not safe to send"):
        await prove_template(greedy, [])
