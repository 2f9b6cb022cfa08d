"""Addresses: one normal form, and a sentence for what is none."""

from __future__ import annotations

import pytest

from posthouse.mail.address import domain_to_ascii, domain_to_unicode, parse_address
from posthouse.model.errors import AddressWrong


@pytest.mark.parametrize(
    ("typed", "text", "utf8"),
    [
        ("ann@example.com", "ann@example.com", False),
        ("  Ann.O'Neil+news@EXAMPLE.Com ", "Ann.O'Neil+news@example.com", False),
        ("a@b-c.example", "a@b-c.example", False),
        ("a@bücher.example", "a@xn--bcher-kva.example", False),
        ("a@BÜCHER.example", "a@xn--bcher-kva.example", False),
        ("a@XN--BCHER-KVA.example", "a@xn--bcher-kva.example", False),
        ("jörg@example.com", "jörg@example.com", True),
        ("用户@例子.广告", "用户@xn--fsqu00a.xn--4rr70v", True),
        ("a@example.com.", "a@example.com", False),
        ("x" * 64 + "@example.com", "x" * 64 + "@example.com", False),
    ],
)
def test_the_normal_form(typed: str, text: str, utf8: bool) -> None:
    """Answers 24: the domain as an A-label in lower case, the local part as written."""
    address = parse_address(typed)
    assert address.text == text
    assert address.needs_smtputf8 is utf8
    assert parse_address(address.text) == address


@pytest.mark.parametrize(
    ("typed", "sentence"),
    [
        ("", "has no @"),
        ("example.com", "has no @"),
        ("@example.com", "has nothing before the @"),
        ("x" * 65 + "@example.com", "longer than 64"),
        ("ü" * 33 + "@example.com", "longer than 64 bytes"),
        ("a b@example.com", "a character or a dot where none may be"),
        (".a@example.com", "a character or a dot where none may be"),
        ("a..b@example.com", "a character or a dot where none may be"),
        ('"a b"@example.com', "a character or a dot where none may be"),
        ("a@b@example.com", "a character or a dot where none may be"),
        ("a,b@example.com", "a character or a dot where none may be"),
        ("a\r\nRCPT TO:<x@y.example>@example.com", "a character or a dot where none may be"),
        ("a\x00@example.com", "a character or a dot where none may be"),
        ("a@", "nothing after the @"),
        ("a@localhost", "not a full domain name"),
        ("a@1.2.3.4", "domain name"),
        ("a@[1.2.3.4]", "domain name"),
        ("a@-x.example", "domain name"),
        ("a@x_y.example", "domain name"),
        ("a@ex ample.com", "domain name"),
        ("a@example..com", "domain name"),
        ("a@xn--zzzz-.example", "domain name"),
        ("a@" + ".".join(["x" * 60] * 5), "domain name"),
        ("a@" + "x" * 64 + ".example", "domain name"),
        ("\ud800@example.com", "a character or a dot where none may be"),
    ],
)
def test_what_is_no_address_is_refused_with_a_sentence(typed: str, sentence: str) -> None:
    with pytest.raises(AddressWrong) as told:
        parse_address(typed)
    assert sentence in str(told.value)
    assert str(told.value).endswith(".")
    assert "\n" not in str(told.value).replace(typed.strip()[:80], "")


def test_a_domain_both_ways() -> None:
    assert domain_to_ascii("Bücher.Example.") == "xn--bcher-kva.example"
    assert domain_to_unicode("xn--bcher-kva.example") == "bücher.example"
    assert domain_to_unicode("xn--\u00ff-.example") == "xn--\u00ff-.example"
