"""Email addresses: one normal form, made once (answers 24): local part kept as written, domain lower case as an A-label."""

from __future__ import annotations

import re

import idna
from msgspec import Struct

from posthouse.model.errors import AddressWrong

# RFC 5321 §4.5.3.1: local part 64 octets, domain 255.
_LOCAL_OCTETS = 64
_DOMAIN_OCTETS = 253
_ASCII_ADDRESS = re.compile(
    r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*"
    r"@(?=.{1,253}\Z)(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])\Z"
)
# RFC 6531 §3.3 adds UTF-8 to atext; controls, surrogates, spaces and specials stay out.
_UTF8_ATOM = r"[^\x00-\x20\x7f-\x9f\ud800-\udfff()<>\[\]:;@\\,\".\s]+"
_UTF8_LOCAL = re.compile(rf"{_UTF8_ATOM}(?:\.{_UTF8_ATOM})*\Z")


class Address(Struct, frozen=True):
    """A normalised address. `text` is local@domain with the domain as A-label."""

    local: str
    domain: str

    @property
    def text(self) -> str:
        """The address as it is stored and as it goes on the wire."""
        return f"{self.local}@{self.domain}"

    @property
    def needs_smtputf8(self) -> bool:
        """Whether RFC 6531 is needed: only a local part outside ASCII asks for it, an IDN domain travels as A-label (SMTP-12)."""
        return not self.local.isascii()


def parse_address(text: str) -> Address:
    """One bare address, as typed or imported, in its normal form. Raises AddressWrong with a sentence that names the fault."""
    text = text.strip()
    if _ASCII_ADDRESS.match(text):
        local, _, domain = text.rpartition("@")
        if len(local) > _LOCAL_OCTETS:
            raise AddressWrong(f"The part before @ in “{text[:80]}” is longer than 64 characters.")
        domain = domain.lower()
        if "xn--" in domain:
            domain = domain_to_ascii(domain)
        return Address(local, domain)
    return _parse_unusual(text)


def _parse_unusual(text: str) -> Address:
    shown = text[:80]
    local, at, domain = text.rpartition("@")
    if not at:
        raise AddressWrong(f"“{shown}” has no @.")
    if not local or not domain:
        raise AddressWrong(f"“{shown}” has nothing {'before' if not local else 'after'} the @.")
    if len(local.encode("utf-8", "replace")) > _LOCAL_OCTETS:
        raise AddressWrong(f"The part before @ in “{shown}” is longer than 64 bytes.")
    if not _UTF8_LOCAL.match(local):
        raise AddressWrong(f"The part before @ in “{shown}” has a character or a dot where none may be.")
    return Address(local, domain_to_ascii(domain))


def domain_to_ascii(domain: str) -> str:
    """A domain in lower case with every label as A-label (IDNA 2008, UTS 46 mapping). Raises AddressWrong."""
    shown = domain[:80]
    try:
        ascii_domain = idna.encode(domain.rstrip("."), uts46=True).decode()
    except (idna.IDNAError, UnicodeError) as error:
        raise AddressWrong(f"“{shown}” is not a domain name.") from error
    if "." not in ascii_domain or len(ascii_domain) > _DOMAIN_OCTETS or ascii_domain.rpartition(".")[2].isdigit():
        raise AddressWrong(f"“{shown}” is not a full domain name.")
    return ascii_domain.lower()


def domain_to_unicode(domain: str) -> str:
    """A domain as people read it; returned unchanged where it cannot be decoded."""
    try:
        return idna.decode(domain)
    except (idna.IDNAError, UnicodeError):
        return domain
