"""Opens, clicks and unsubscribes: whom they are about, and who came."""

from __future__ import annotations

from pathlib import Path

import pytest

from posthouse.feedback import (
    Heard,
    NotHeard,
    Visit,
    VisitorClass,
    Visitors,
    WhyNot,
    hear_click,
    hear_open,
    hear_personal_click,
    hear_unsubscribe,
)
from posthouse.mail.tokens import Purpose, Subject, Tokens
from posthouse.model.errors import SettingWrong
from posthouse.model.events import EventKind

TOKENS = Tokens({1: b"k" * 32}, 1)
VISITORS = Visitors.load()
SUBJECT = Subject(7, 3, 2, 1_000_000, 123_456_789)
OTHER = Subject(7, 3, 2, 1_000_001, 123_456_790)
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/131.0.0.0 Safari/537.36"
)
VISIT = Visit(CHROME, "198.51.100.7", 1_795_000_000_000_000)
FORGED = NotHeard(WhyNot.NO_TOKEN)


def link(purpose: Purpose, subject: Subject = SUBJECT) -> str:
    return TOKENS.link(purpose, subject)


def test_an_open_keeps_the_raw_facts_beside_the_class() -> None:
    facts = {"class": "human", "rule": "browser", "user_agent": CHROME, "ip": "198.51.100.7"}
    assert hear_open(link(Purpose.OPEN), VISIT, TOKENS, VISITORS) == Heard(SUBJECT, EventKind.OPENED, VISIT.at, facts)


def test_a_click_says_which_link() -> None:
    heard = hear_click(link(Purpose.CLICK), 4, VISIT, TOKENS, VISITORS)
    assert isinstance(heard, Heard)
    assert (heard.subject, heard.kind, heard.detail["link"], heard.suppress) == (SUBJECT, EventKind.CLICKED, 4, False)


def test_a_personal_click_leads_only_where_we_sealed_it_for_this_copy() -> None:
    target = "https://example.com/?a=1#b"
    seal = TOKENS.seal_text(Purpose.CLICK, SUBJECT, target)
    heard = hear_personal_click(link(Purpose.CLICK), target, seal, VISIT, TOKENS, VISITORS)
    assert isinstance(heard, Heard)
    assert heard.detail["url"] == target
    for token, where, mark in (
        (link(Purpose.CLICK), "https://evil.example/", seal),
        (link(Purpose.CLICK, OTHER), target, seal),
        (link(Purpose.CLICK), target, TOKENS.seal_text(Purpose.OPEN, SUBJECT, target)),
        (link(Purpose.OPEN), target, seal),
        (link(Purpose.CLICK), target, ""),
    ):
        assert hear_personal_click(token, where, mark, VISIT, TOKENS, VISITORS) == FORGED


def test_an_unsubscribe_says_how_and_never_suppresses_everything() -> None:
    heard = hear_unsubscribe(link(Purpose.UNSUBSCRIBE), "one-click", VISIT, TOKENS)
    assert isinstance(heard, Heard)
    assert (heard.kind, heard.detail["how"], heard.suppress) == (EventKind.UNSUBSCRIBED, "one-click", False)


def test_a_token_is_good_for_one_purpose_only() -> None:
    for purpose in Purpose:
        token = link(purpose)
        if purpose is not Purpose.OPEN:
            assert hear_open(token, VISIT, TOKENS, VISITORS) == FORGED
        if purpose is not Purpose.CLICK:
            assert hear_click(token, 0, VISIT, TOKENS, VISITORS) == FORGED
        if purpose is not Purpose.UNSUBSCRIBE:
            assert hear_unsubscribe(token, "page", VISIT, TOKENS) == FORGED


@pytest.mark.parametrize(
    ("user_agent", "ip", "expected"),
    [
        (CHROME, "198.51.100.7", VisitorClass.HUMAN),
        (
            "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
            "",
            VisitorClass.HUMAN,
        ),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Thunderbird/128.4.0", "", VisitorClass.HUMAN),
        (
            "Mozilla/4.0 (compatible; MSIE 7.0; Windows NT 10.0; WOW64; Trident/7.0; Microsoft Outlook 16.0)",
            "",
            VisitorClass.HUMAN,
        ),
        (
            "Mozilla/5.0 (Windows NT 5.1; rv:11.0) Gecko Firefox/11.0 (via ggpht.com GoogleImageProxy)",
            "",
            VisitorClass.PROXY,
        ),
        ("YahooMailProxy; https://help.yahoo.com/kb/yahoo-mail-proxy-SLN28749.html", "", VisitorClass.PROXY),
        ("Mozilla/5.0", "104.28.1.1", VisitorClass.PREFETCH),
        (CHROME, "17.58.1.1", VisitorClass.PREFETCH),
        (
            "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/42.0.2311.135"
            " Safari/537.36 Edge/12.246 Mozilla/5.0",
            "",
            VisitorClass.PREFETCH,
        ),
        ("python-requests/2.32", "", VisitorClass.SCANNER),
        ("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)", "", VisitorClass.SCANNER),
        (
            "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) HeadlessChrome/120.0 Safari/537.36",
            "",
            VisitorClass.SCANNER,
        ),
        ("Slackbot-LinkExpanding 1.0 (+https://api.slack.com/robots)", "", VisitorClass.SCANNER),
        ("", "", VisitorClass.UNKNOWN),
        ("blorb", "not an address", VisitorClass.UNKNOWN),
    ],
)
def test_visitors_are_told_apart(user_agent: str, ip: str, expected: VisitorClass) -> None:
    assert VISITORS.recognise(user_agent, ip, is_head=False).visitor_class is expected


def test_whoever_asks_for_the_head_alone_is_a_scanner() -> None:
    assert VISITORS.recognise(CHROME, "", is_head=True).visitor_class is VisitorClass.SCANNER


def test_an_operators_signs_come_first(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text(
        '[[visitor]]\nname = "our-gateway"\nclass = "scanner"\nnetworks = ["203.0.113.0/24", "2001:db8::/32"]\n'
    )
    visitors = Visitors.load(path)
    assert visitors.recognise(CHROME, "203.0.113.9", is_head=False).name == "our-gateway"
    assert visitors.recognise(CHROME, "2001:db8::1", is_head=False).name == "our-gateway"
    assert visitors.recognise(CHROME, "192.0.2.1", is_head=False).name == "browser"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('class = "robot"', "robot"),
        ('class = "scanner"', "no condition"),
        ('class = "scanner"\nuser_agent = "("', "sign “own”"),
        ('class = "scanner"\nnetworks = ["300.0.0.0/8"]', "300.0.0.0/8"),
        ('class = "scanner"\nuser = "x"', "user"),
        ("[", "own.toml"),
    ],
)
def test_a_wrong_sign_is_named(tmp_path: Path, text: str, reason: str) -> None:
    path = tmp_path / "own.toml"
    path.write_text(f'[[visitor]]\nname = "own"\n{text}\n')
    with pytest.raises(SettingWrong, match=reason):
        Visitors.load(path)
