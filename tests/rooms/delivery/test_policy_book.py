"""The policy book: MTA-STS over real HTTPS and the operator's rules, and what is counted for TLS reports."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from posthouse.db.pool import Pool
from posthouse.delivery import PolicyBook, PolicySettings, Route, TlsNeed, TlsPolicy, results_of_day
from posthouse.delivery.policy_fetch import PolicyFetcher
from posthouse.delivery.tls_policy import Reported
from posthouse.mail.mta_sts import StsMode, StsPolicy
from posthouse.mail.replies import Failure
from posthouse.mail.reports.tls_report import PolicyType, ResultType, TlsFailures
from posthouse.model.errors import SettingWrong
from posthouse.model.ports import DnsTrouble, MxHost, NoSuchDomain
from posthouse.sandbox.ca import Authority

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
DAY = AT.date()
ENFORCE = "version: STSv1\nmode: enforce\nmx: mx1.a.test\nmax_age: 604800\n"
POLICY = StsPolicy(StsMode.ENFORCE, ("mx1.a.test",), 604800)
VERIFY = TlsPolicy(need=TlsNeed.VERIFY)
TWO_MX = (MxHost(10, "mx1.a.test"), MxHost(20, "mx2.a.test"))


class FixedClock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.at = AT

    def now(self) -> datetime:
        return self.at

    def now_us(self) -> int:
        return int(self.at.timestamp() * 1_000_000)


class Names:
    """DNS as the test has it."""

    def __init__(self) -> None:
        self.texts: dict[str, Sequence[str] | Exception] = {}
        self.hosts: dict[str, Sequence[str]] = {}
        self.asked: list[str] = []

    async def txt(self, name: str) -> Sequence[str]:
        self.asked.append(name)
        found = self.texts.get(name, NoSuchDomain(name))
        if isinstance(found, Exception):
            raise found
        return found

    async def addresses(self, host: str) -> Sequence[str]:
        if host not in self.hosts:
            raise NoSuchDomain(host)
        return self.hosts[host]

    async def mx(self, domain: str) -> Sequence[MxHost]:
        raise NotImplementedError


class WebServer:
    """The HTTPS server of every domain's policy. body: what it says; asked: how often."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        self.headers = {"Content-Type": "text/plain"}
        self.body: bytes | str = ENFORCE
        self.asked: list[str] = []

    async def answer(self, request: web.Request) -> web.Response:
        self.asked.append(f"{request.host.partition(':')[0]}{request.path}")
        body = self.body.encode() if isinstance(self.body, str) else self.body
        return web.Response(status=self.status, body=body, headers=self.headers)


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[WebServer]:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate_file))
    made = WebServer()
    app = web.Application()
    app.router.add_get("/{path:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    context = authority.issue("web", ["mta-sts.a.test"]).server_context()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    made.port = runner.addresses[0][1]
    yield made
    await runner.cleanup()


@pytest.fixture
def names() -> Names:
    """A domain a.test with an MTA-STS policy."""
    made = Names()
    made.texts["_mta-sts.a.test"] = ["v=STSv1; id=1"]
    made.hosts = {"mta-sts.a.test": ["127.0.0.1"], "mta-sts.b.test": ["127.0.0.1"]}
    return made


Find = Callable[..., Awaitable[Any]]


def finder(pool: Pool, names: Names, site: WebServer, **settings: Any) -> tuple[PolicyBook, Find]:
    chosen = PolicySettings(**{"sts_port": site.port, "allow_private_addresses": True, **settings})
    book = PolicyBook(pool, names, None, chosen, FixedClock())
    route = Route(1, "a.test", TWO_MX)

    async def find(now: datetime = AT, domain: str = "a.test") -> Route | Failure:
        return (await book.apply({domain: route}, now))[domain]

    return book, find


# ── MTA-STS ──


async def test_an_enforced_policy_names_the_hosts_and_asks_for_certificates(
    pool: Pool, names: Names, site: WebServer
) -> None:
    book, find = finder(pool, names, site)
    assert not book.knows("a.test", AT)
    route = await find()
    assert (route.mx, route.policy) == (TWO_MX[:1], VERIFY)
    assert site.asked == ["mta-sts.a.test/.well-known/mta-sts.txt"]
    assert book.knows("a.test", AT)
    assert not book.knows("a.test", AT + timedelta(hours=1))
    assert await find() is route


async def test_a_domain_none_of_whose_hosts_is_named_gets_no_mail(pool: Pool, names: Names, site: WebServer) -> None:
    site.body = ENFORCE.replace("mx1.a.test", "mx.other.test")
    _, find = finder(pool, names, site)
    assert await find() is Failure.STS_NO_MX
    # Looked at again soon: the domain may mend it.
    site.body = ENFORCE
    names.texts["_mta-sts.a.test"] = ["v=STSv1; id=2"]
    assert await find(AT + timedelta(seconds=59)) is Failure.STS_NO_MX
    assert (await find(AT + timedelta(seconds=61))).policy == VERIFY


@pytest.mark.parametrize(("mode", "policy"), [("testing", TlsPolicy(testing=("mx1.a.test",))), ("none", TlsPolicy())])
async def test_what_is_not_enforced_stops_nothing(
    pool: Pool, names: Names, site: WebServer, mode: str, policy: TlsPolicy
) -> None:
    site.body = ENFORCE.replace("enforce", mode)
    route = await finder(pool, names, site)[1]()
    assert (route.mx, route.policy) == (TWO_MX, policy)


async def test_a_domain_without_a_policy_has_none(pool: Pool, names: Names, site: WebServer) -> None:
    _, find = finder(pool, names, site)
    for text in (NoSuchDomain("x"), DnsTrouble("x"), ["v=STSv1; id="]):
        names.texts["_mta-sts.a.test"] = text
        assert (await find(AT)).policy == TlsPolicy()
    assert site.asked == []
    assert (await finder(pool, names, site, need=TlsNeed.ENCRYPT)[1]()).policy.need is TlsNeed.ENCRYPT


async def test_it_can_be_turned_off(pool: Pool, names: Names, site: WebServer) -> None:
    assert (await finder(pool, names, site, mta_sts=False, reports=False)[1]()).policy == TlsPolicy()
    assert names.asked == []


async def test_a_policy_is_fetched_once_for_all_senders(pool: Pool, names: Names, site: WebServer) -> None:
    first = await finder(pool, names, site)[1]()
    again = await finder(pool, names, site)[1](AT + timedelta(hours=23))
    assert again == first
    assert len(site.asked) == 1


async def test_a_new_id_and_a_new_day_are_reasons_to_fetch(pool: Pool, names: Names, site: WebServer) -> None:
    _, find = finder(pool, names, site)
    await find()
    site.body = ENFORCE.replace("mx1", "mx2")
    await find(AT + timedelta(hours=2))
    assert len(site.asked) == 1
    names.texts["_mta-sts.a.test"] = ["v=STSv1; id=2"]
    assert (await find(AT + timedelta(hours=4))).mx == TWO_MX[1:]
    await find(AT + timedelta(hours=27))
    assert len(site.asked) == 2
    await find(AT + timedelta(hours=29))
    assert len(site.asked) == 3


@pytest.mark.parametrize("trouble", ["dns", "record", "web"])
async def test_a_policy_stays_in_force_until_it_ends_whatever_fails(
    pool: Pool, names: Names, site: WebServer, trouble: str
) -> None:
    """RFC 8461 §5.1: otherwise an attacker in between would only have to break the look-up."""
    await finder(pool, names, site)[1]()
    if trouble == "dns":
        names.texts["_mta-sts.a.test"] = DnsTrouble("silent")
    elif trouble == "record":
        del names.texts["_mta-sts.a.test"]
    else:
        names.texts["_mta-sts.a.test"] = ["v=STSv1; id=2"]
        site.status = 500
    _, find = finder(pool, names, site)
    assert (await find(AT + timedelta(days=7, seconds=-1))).policy == VERIFY
    assert (await find(AT + timedelta(days=7))).policy == TlsPolicy()


async def test_a_web_server_that_fails_is_left_alone_for_a_while(pool: Pool, names: Names, site: WebServer) -> None:
    site.status = 503
    _, find = finder(pool, names, site)
    for seconds in (0, 100, 299, 301):
        assert (await find(AT + timedelta(seconds=seconds))).policy == TlsPolicy()
    assert len(site.asked) == 2


@pytest.mark.parametrize(
    ("status", "headers", "body", "found"),
    [
        (200, {}, ENFORCE, POLICY),
        (200, {"Content-Type": "text/plain; charset=utf-8"}, ENFORCE, POLICY),
        (200, {"Content-Type": "text/html"}, ENFORCE, ResultType.STS_FETCH),
        (404, {}, ENFORCE, ResultType.STS_FETCH),
        (301, {"Location": "/.well-known/mta-sts.txt?again"}, ENFORCE, ResultType.STS_FETCH),
        (200, {}, "mode: enforce", ResultType.STS_INVALID),
        (200, {}, ENFORCE + "x" * (64 * 1024 - len(ENFORCE)), POLICY),
        (200, {}, ENFORCE + "x" * (64 * 1024 + 1 - len(ENFORCE)), ResultType.STS_INVALID),
    ],
)
async def test_what_a_web_server_may_say(
    names: Names, site: WebServer, status: int, headers: dict[str, str], body: str, found: Any
) -> None:
    site.status, site.body = status, body
    site.headers |= headers
    assert await PolicyFetcher(names, port=site.port, allow_private_addresses=True).fetch("a.test") == found
    assert len(site.asked) == 1


async def test_a_web_server_proves_who_it_is(names: Names, site: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    fetcher = PolicyFetcher(names, port=site.port, allow_private_addresses=True)
    assert await fetcher.fetch("b.test") is ResultType.STS_WEBPKI
    monkeypatch.delenv("SSL_CERT_FILE")
    stranger = PolicyFetcher(names, port=site.port, allow_private_addresses=True)
    assert await stranger.fetch("a.test") is ResultType.STS_WEBPKI
    assert site.asked == []


async def test_no_record_makes_us_call_inside_our_own_network(names: Names, site: WebServer) -> None:
    for address in ("127.0.0.1", "10.0.0.1", "169.254.169.254", "::1"):
        names.hosts["mta-sts.a.test"] = [address]
        assert await PolicyFetcher(names, port=site.port).fetch("a.test") is ResultType.STS_FETCH
    assert site.asked == []


async def test_a_web_server_that_is_not_there(names: Names, site: WebServer) -> None:
    fetcher = PolicyFetcher(names, port=9, allow_private_addresses=True)
    assert await fetcher.fetch("a.test") is ResultType.STS_FETCH
    assert await fetcher.fetch("missing.test") is ResultType.STS_FETCH


# ── The operator's rules ──

RULES = """
[[rule]]
domains = ["a.test"]
tls = "verify"
names = ["mail.partner.test"]

[[rule]]
domains = [".gov.test", "b.test"]
tls = "encrypt"

[[rule]]
domains = [".open.gov.test"]
tls = "opportunistic"
"""


async def test_a_rule_alone_decides(pool: Pool, names: Names, site: WebServer, tmp_path: Path) -> None:
    file = tmp_path / "tls.toml"
    file.write_text(RULES, encoding="utf-8")
    _, find = finder(pool, names, site, rules_file=file)
    route = await find()
    assert (route.mx, route.policy) == (TWO_MX, TlsPolicy(need=TlsNeed.VERIFY, names=("mail.partner.test",)))
    needs = {name: (await find(AT, name)).policy.need.value for name in ("b.test", "x.gov.test", "a.open.gov.test")}
    assert needs == {"b.test": "encrypt", "x.gov.test": "encrypt", "a.open.gov.test": "opportunistic"}
    assert names.asked == []
    for free in ("gov.test", "x.b.test"):
        assert (await find(AT, free)).policy == TlsPolicy()


async def test_rules_are_read_again_when_they_change(pool: Pool, names: Names, site: WebServer, tmp_path: Path) -> None:
    file = tmp_path / "tls.toml"
    book, find = finder(pool, names, site, rules_file=file, mta_sts=False)
    assert (await find()).policy.need is TlsNeed.OPPORTUNISTIC
    assert not book.reload_rules()
    file.write_text(RULES, encoding="utf-8")
    assert book.reload_rules()
    assert not book.reload_rules()
    assert (await find()).policy.need is TlsNeed.VERIFY
    file.write_text("[[rule]]\n", encoding="utf-8")
    os.utime(file, (1, 1))
    with pytest.raises(SettingWrong):
        book.reload_rules()
    assert (await find()).policy.need is TlsNeed.VERIFY
    file.unlink()
    assert book.reload_rules()
    assert (await find()).policy.need is TlsNeed.OPPORTUNISTIC


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[[rule]\n", r"are not TOML: .*line 1"),
        ("[[rules]]\n", r"are wrong: Object contains unknown field `rules`"),
        ('[[rule]]\ndomains = ["a.test"]\n', r"are wrong: Object missing required field `tls` - at `\$\.rule\[0\]`"),
        ('[[rule]]\ndomains = []\ntls = "verify"\n', r"are wrong: .* `\$\.rule\[0\]\.domains`"),
        ('[[rule]]\ndomains = ["A test"]\ntls = "verify"\n', r"are wrong: .*regex.* `\$\.rule\[0\]\.domains"),
        ('[[rule]]\ndomains = ["a.test"]\ntls = "always"\n', r"are wrong: Invalid enum value 'always'"),
        (
            '[[rule]]\ndomains = ["a.test"]\ntls = "dane"\n',
            r"Rule 1 .* \(a\.test\) asks for DANE, which needs dns\.validating",
        ),
        (
            '[[rule]]\ndomains = ["a.test"]\ntls = "encrypt"\nnames = ["b.test"]\n',
            r"Rule 1 .* has names, which only count with tls = “verify”",
        ),
        (
            '[[rule]]\ndomains = ["a.test"]\ntls = "encrypt"\n' * 2,
            r"Rule 2 .* is the second about a\.test: keep one",
        ),
    ],
)
async def test_a_wrong_rule_says_where_and_why(
    pool: Pool, names: Names, site: WebServer, tmp_path: Path, text: str, reason: str
) -> None:
    file = tmp_path / "tls.toml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(SettingWrong, match=reason):
        finder(pool, names, site, rules_file=file)
    file.write_bytes(b"\xff")
    with pytest.raises(SettingWrong, match="cannot be read"):
        finder(pool, names, site, rules_file=file)


# ── Results for TLS reports ──


async def test_a_domain_that_wants_reports_is_told_under_which_policy(
    pool: Pool, names: Names, site: WebServer
) -> None:
    names.texts["_smtp._tls.a.test"] = ["v=TLSRPTv1; rua=mailto:tls@a.test"]
    route = await finder(pool, names, site)[1]()
    assert route.policy.report == Reported("a.test", PolicyType.STS, POLICY.lines, POLICY.mx)
    site.body = ENFORCE.replace("enforce", "none")
    names.texts["_mta-sts.a.test"] = ["v=STSv1; id=2"]
    route = await finder(pool, names, site)[1]()
    assert route.policy == TlsPolicy(report=Reported("a.test", PolicyType.NONE))
    for text in (["v=TLSRPTv1; rua=x", "v=TLSRPTv1; rua=y"], ["other"], DnsTrouble("x")):
        names.texts["_smtp._tls.a.test"] = text
        assert (await finder(pool, names, site)[1]()).policy.report is None


async def test_a_domain_without_a_policy_is_not_asked_about_reports(pool: Pool, names: Names, site: WebServer) -> None:
    names.texts = {"_smtp._tls.a.test": ["v=TLSRPTv1; rua=mailto:tls@a.test"]}
    assert (await finder(pool, names, site)[1]()).policy.report is None
    assert names.asked == ["_mta-sts.a.test"]


async def test_what_is_wrong_with_the_policy_itself_is_told(pool: Pool, names: Names, site: WebServer) -> None:
    names.texts["_smtp._tls.a.test"] = ["v=TLSRPTv1; rua=mailto:tls@a.test"]
    site.body = "nonsense"
    book, find = finder(pool, names, site)
    report = (await find()).policy.report
    assert report == Reported("a.test", PolicyType.STS, flaw=ResultType.STS_INVALID)
    book.results.note(report, "mx1.a.test", None)
    await book.results.flush(pool, at_once=True)
    assert [each.failures for each in await results_of_day(pool, DAY, "a.test")] == [
        (TlsFailures("sts-policy-invalid", "mx1.a.test", 1),)
    ]


async def test_hosts_that_the_policy_forbids_are_told_too(pool: Pool, names: Names, site: WebServer) -> None:
    names.texts["_smtp._tls.a.test"] = ["v=TLSRPTv1; rua=mailto:tls@a.test"]
    site.body = ENFORCE.replace("mx1.a.test", "mx.other.test")
    book, find = finder(pool, names, site)
    assert await find() is Failure.STS_NO_MX
    await book.results.flush(pool, at_once=True)
    assert [each.failures for each in await results_of_day(pool, DAY, "a.test")] == [
        (TlsFailures("validation-failure", "mx1.a.test", 1),)
    ]
