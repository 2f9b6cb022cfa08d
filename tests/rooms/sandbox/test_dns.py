"""DNS as a resolver sees it: homes of recipient domains, domains in trouble, and the sender's own zones."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.resolver
import pytest

from posthouse.sandbox import PlanWrong, Sandbox, SandboxUnavailable, ZoneRecord, publish

RunSandbox = Callable[..., Sandbox]
Eventually = Callable[[Callable[[], bool]], None]


def ask(sandbox: Sandbox, name: str, rdtype: str, *, tcp: bool = False, seconds: float = 5) -> dns.message.Message:
    query = dns.message.make_query(name, rdtype)
    send = dns.query.tcp if tcp else dns.query.udp
    return send(query, "127.0.0.1", timeout=seconds, port=sandbox.ready.dns_port)


def answers(message: dns.message.Message) -> list[str]:
    return sorted(record.to_text() for rrset in message.answer for record in rrset)


@pytest.mark.parametrize(
    ("domain", "hosts"),
    [
        ("gmail.com", ["10 mx2.gmail-like.test.", "5 mx1.gmail-like.test."]),
        ("GoogleMail.com", ["10 mx2.gmail-like.test.", "5 mx1.gmail-like.test."]),
        ("yahoo.co.uk", ["1 mx1.yahoo-like.test.", "1 mx2.yahoo-like.test."]),
        ("aol.com", ["1 mx1.yahoo-like.test.", "1 mx2.yahoo-like.test."]),
        ("hotmail.fr", ["10 mx1.outlook-like.test.", "10 mx2.outlook-like.test."]),
    ],
)
def test_well_known_domains_live_at_their_provider(quiet_sandbox: Sandbox, domain: str, hosts: list[str]) -> None:
    assert answers(ask(quiet_sandbox, domain, "MX")) == hosts


def test_any_other_domain_has_a_home_that_answers_at_its_own_address(quiet_sandbox: Sandbox) -> None:
    providers = set()
    for number in range(200):
        hosts = answers(ask(quiet_sandbox, f"company{number}.example", "MX"))
        assert hosts == answers(ask(quiet_sandbox, f"company{number}.example", "MX", tcp=True))
        providers.add(hosts[0].split(".", 1)[1])
    assert {"plain-mail.test.", "mailboxes.test.", "greylister.test.", "late-bouncer.test."} <= providers
    assert not providers & {"gmail-like.test.", "yahoo-like.test.", "outlook-like.test."}
    first, second = quiet_sandbox.ready.addresses["plain"]
    assert first != second
    assert answers(ask(quiet_sandbox, "mx2.plain-mail.test", "A")) == [second]
    assert answers(ask(quiet_sandbox, f"{'.'.join(reversed(first.split('.')))}.in-addr.arpa", "PTR")) == [
        "mx1.plain-mail.test."
    ]


def test_what_a_domain_does_not_have_is_an_empty_answer(quiet_sandbox: Sandbox) -> None:
    for name, rdtype in (("gmail.com", "A"), ("mx1.gmail-like.test", "AAAA"), ("mx1.gmail-like.test", "MX")):
        message = ask(quiet_sandbox, name, rdtype)
        assert message.rcode() == dns.rcode.NOERROR
        assert not message.answer
        assert message.authority[0].to_text().split()[3] == "SOA"
    for name in ("_dmarc.gmail.com", "_mta-sts.company.example", "nobody.invalid", "9.9.9.127.in-addr.arpa"):
        assert ask(quiet_sandbox, name, "TXT").rcode() == dns.rcode.NXDOMAIN


def test_domains_in_trouble(run_sandbox: RunSandbox) -> None:
    sandbox = run_sandbox(
        domains={
            "gone.example": "nxdomain",
            "Broken.example": "servfail",
            "silent.example": "silent",
            "no-mail.example": "null-mx",
            "old.example": "implicit-mx",
            "pinned.example": "slow",
        }
    )
    assert ask(sandbox, "gone.example", "MX").rcode() == dns.rcode.NXDOMAIN
    assert ask(sandbox, "broken.example", "MX").rcode() == dns.rcode.SERVFAIL
    assert answers(ask(sandbox, "no-mail.example", "MX")) == ["0 ."]
    assert answers(ask(sandbox, "old.example", "MX")) == []
    assert answers(ask(sandbox, "old.example", "A"))[0].startswith("127.")
    assert answers(ask(sandbox, "pinned.example", "MX"))[0] == "10 mx1.slow-mail.test."
    with pytest.raises(dns.exception.Timeout):
        ask(sandbox, "silent.example", "MX", seconds=0.3)


def test_the_senders_zones_are_read_again_when_they_change(run_sandbox: RunSandbox, eventually: Eventually) -> None:
    sandbox = run_sandbox()
    directory = sandbox.ready.record_file.parent
    key = "v=DKIM1; k=rsa; p=" + "A" * 800 + '"\\;'
    first = [
        ZoneRecord("news.example", "MX", "10 bounces.news.example"),
        ZoneRecord("Bounces.news.example", "A", "127.0.0.1"),
        ZoneRecord("s1._domainkey.news.example", "TXT", key),
        ZoneRecord("links.news.example", "CNAME", "Bounces.news.example"),
        ZoneRecord("round.news.example", "CNAME", "round.news.example"),
    ]
    publish(directory, first, {"late.example": "null-mx"})
    resolver = dns.resolver.Resolver(configure=False)
    resolver.nameservers, resolver.port = ["127.0.0.1"], sandbox.ready.dns_port
    eventually(lambda: answers(ask(sandbox, "news.example", "MX")) == ["10 bounces.news.example."])
    (txt,) = resolver.resolve("s1._domainkey.news.example", "TXT")
    assert b"".join(txt.strings).decode() == key
    assert ask(sandbox, "s1._domainkey.news.example", "TXT").flags & dns.flags.TC
    assert answers(ask(sandbox, "bounces.news.example", "A")) == ["127.0.0.1"]
    assert answers(ask(sandbox, "links.news.example", "A")) == ["127.0.0.1", "Bounces.news.example."]
    assert [record.to_text() for record in resolver.resolve("links.news.example", "A")] == ["127.0.0.1"]
    assert set(answers(ask(sandbox, "round.news.example", "A"))) == {"round.news.example."}
    assert ask(sandbox, "other.news.example", "A").rcode() == dns.rcode.NXDOMAIN
    assert answers(ask(sandbox, "late.example", "MX")) == ["0 ."]

    publish(
        directory, [ZoneRecord("news.example", "MX", "20 elsewhere.news.example.")], {"late.example": "no-such-fate"}
    )
    eventually(lambda: answers(ask(sandbox, "news.example", "MX")) == ["20 elsewhere.news.example."])
    assert ask(sandbox, "late.example", "MX").rcode() == dns.rcode.SERVFAIL


def test_a_wrong_plan_is_refused_with_a_sentence(run_sandbox: RunSandbox, tmp_path: Path) -> None:
    with pytest.raises(SandboxUnavailable, match="“nowhere” is neither a provider nor one of nxdomain"):
        run_sandbox(domains={"x.example": "nowhere"})
    with pytest.raises(PlanWrong, match=r"bounce_mx must be a port on a loopback address, not “192\.0\.2\.1:25”"):
        run_sandbox(bounce_mx="192.0.2.1:25")
    with pytest.raises(PlanWrong, match=r"public_address must look like 127\.0\.0\.1:2525, not “localhost”"):
        run_sandbox(public_address="localhost")
    with pytest.raises(PlanWrong, match=r"withhold is a share, so it must lie between 0 and 1, not 2\.0"):
        run_sandbox(withhold=2.0)
    with pytest.raises(PlanWrong, match="rate_scale"):
        run_sandbox(rate_scale=0.0)
    (tmp_path / "none").mkdir()
    with pytest.raises(SandboxUnavailable, match="has a weight above 0"):
        run_sandbox(providers=tmp_path / "none")


def test_garbage_gets_no_answer_and_harms_nobody(quiet_sandbox: Sandbox) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"\0" * 7, ("127.0.0.1", quiet_sandbox.ready.dns_port))
        sender.sendto(b"", ("127.0.0.1", quiet_sandbox.ready.dns_port))
    assert answers(ask(quiet_sandbox, "aol.com", "MX"))
