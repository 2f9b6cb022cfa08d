"""MTA-STS documents (RFC 8461 §3): what announces a policy, what is one, and which hosts it means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.mail.mta_sts import StsMode, StsPolicy, mx_matches, parse_policy, policy_id

FILE = b"version: STSv1\r\nmode: enforce\r\nmx: mail.example.com\r\nmx: *.example.net\r\nmax_age: 604800\r\n"


@pytest.mark.parametrize(
    ("records", "found"),
    [
        (["v=STSv1; id=20160831085700Z;"], "20160831085700Z"),
        (["v=STSv1;id=a"], "a"),
        (["v=STSv1 ; id = a ; other=x"], "a"),
        (["v=spf1 -all", "v=STSv1; id=a;"], "a"),
        (["v=STSv1; x=y; id=a"], "a"),
        ([], None),
        (["v=STSv1; id=a", "v=STSv1; id=b"], None),
        (["v=STSv1; id="], None),
        (["v=STSv1; id=" + "a" * 33], None),
        (["v=STSv1; id=a-b"], None),
        (["v=STSv1; x=a"], None),
        (["v=STSv1"], None),
        (["v=STSv10; id=a"], None),
    ],
)
def test_the_record_that_announces_a_policy(records: list[str], found: str | None) -> None:
    assert policy_id(records) == found


def test_a_policy_is_read() -> None:
    policy = parse_policy(FILE)
    assert policy == StsPolicy(StsMode.ENFORCE, ("mail.example.com", "*.example.net"), 604800)
    assert policy is not None
    assert "\r\n".join(policy.lines).encode() + b"\r\n" == FILE


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"\r\n", b"\n"),
        (b"mx: mail.example.com", b"mx:Mail.Example.COM."),
        (b"mode: enforce", b"mode:   enforce  \r\nmode: none\r\nnew_key: x\r\nno colon here"),
        (b"mx: *.example.net", b"mx: *.example.net\r\nmx: *.example.net"),
    ],
)
def test_other_ways_to_write_the_same(old: bytes, new: bytes) -> None:
    assert parse_policy(FILE.replace(old, new)) == parse_policy(FILE)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"STSv1", b"STSv2"),
        (b"version: STSv1\r\n", b""),
        (b"enforce", b"force"),
        (b"604800", b"31557601"),
        (b"604800", b"-1"),
        (b"604800", "\u0666".encode()),
        (b"604800", b"9" * 5000),
        (b"max_age: 604800", b""),
        (b"mx: mail.example.com\r\nmx: *.example.net\r\n", b""),
        (b"mail.example.com", b"*"),
        (b"mail.example.com", b"mail.*.com"),
        (b"mail.example.com", b""),
        (b"mail.example.com", b"a b"),
        (b"mx: mail", b"".join(b"mx: m%d.example.com\r\n" % n for n in range(99)) + b"mx: mail"),
    ],
)
def test_what_is_no_policy(old: bytes, new: bytes) -> None:
    assert parse_policy(FILE.replace(old, new)) is None


def test_a_domain_that_gives_its_policy_up_names_no_hosts() -> None:
    assert parse_policy(b"version: STSv1\nmode: none\nmax_age: 0") == StsPolicy(StsMode.NONE, (), 0)
    assert parse_policy(b"version: STSv1\nmode: testing\nmax_age: 0") is None


@pytest.mark.parametrize(
    ("host", "matches"),
    [
        ("mail.example.com", True),
        ("MAIL.example.com.", True),
        ("a.example.net", True),
        ("a.b.example.net", False),
        ("example.net", False),
        ("net", False),
        ("xmail.example.com", False),
        ("mail.example.com.evil.test", False),
    ],
)
def test_which_hosts_a_policy_means(host: str, matches: bool) -> None:
    """RFC 8461 §4.1."""
    assert mx_matches(host, ("mail.example.com", "*.example.net")) is matches


def test_a_star_of_a_top_level_name_means_no_bare_name() -> None:
    assert not mx_matches("", ("*.",))
    assert not mx_matches("localhost", ("*.localhost", "*."))


@given(st.binary(max_size=300) | st.lists(st.sampled_from(FILE.splitlines()), max_size=8).map(b"\n".join))
def test_whatever_a_stranger_sends_is_a_policy_or_none(body: bytes) -> None:
    policy = parse_policy(body)
    if policy is not None:
        assert policy.mx or policy.mode is StsMode.NONE
        assert 0 <= policy.max_age <= 31_557_600
        assert parse_policy("\n".join(policy.lines).encode()) == policy
