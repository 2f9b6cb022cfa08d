"""What a TLS handshake must show under a policy, and how it is checked."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from typing import Any

from msgspec import Struct

from posthouse.delivery.dane import chain_matches
from posthouse.delivery.tls_policy import HostTls, TlsNeed
from posthouse.mail.replies import Failure

# OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED, _HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH.
_EXPIRED = 10
_MISMATCHES = (62, 64)


class Demand(Struct, frozen=True):
    """How STARTTLS is done with a server.

    required: without it the server gets no mail. flaw: looks at a finished handshake and says what is wrong with it, if anything.
    """

    context: ssl.SSLContext
    required: bool = False
    flaw: Callable[[Any], Failure | None] = lambda _: None


class Handshakes:
    """The TLS contexts of one process, made when they are first needed. All want TLS 1.2 or later (TLS-2)."""

    @cached_property
    def opportunistic(self) -> ssl.SSLContext:
        """Encrypts and does not authenticate: a certificate that cannot be checked is no reason for the clear."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    @cached_property
    def authenticated(self) -> ssl.SSLContext:
        """Trusts the system's authorities and compares the server's name with the certificate's."""
        context = ssl.create_default_context()
        context.hostname_checks_common_name = False
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    @cached_property
    def _trusted(self) -> ssl.SSLContext:
        """Trusts the system's authorities; names are compared afterwards."""
        context = ssl.create_default_context()
        context.check_hostname = False
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        return context

    def demand(self, host: str, wanted: HostTls) -> Demand:
        """What a mail exchanger must show."""
        if wanted.need is TlsNeed.DANE:
            names = (host, *wanted.names)
            return Demand(self.opportunistic, True, partial(_tlsa_flaw, records=wanted.tlsa, names=names))
        if wanted.need is TlsNeed.VERIFY and wanted.names:
            return Demand(self._trusted, True, partial(_name_flaw, names=wanted.names))
        if wanted.need is TlsNeed.VERIFY:
            return Demand(self.authenticated, True)
        return Demand(self.opportunistic, wanted.need is TlsNeed.ENCRYPT)


def failure_of(error: ssl.SSLError) -> Failure:
    """What kept a handshake from its end."""
    if isinstance(error, ssl.SSLCertVerificationError):
        if error.verify_code == _EXPIRED:
            return Failure.CERTIFICATE_EXPIRED
        return Failure.CERTIFICATE_NAME if error.verify_code in _MISMATCHES else Failure.CERTIFICATE_UNTRUSTED
    return Failure.TLS_FAILED


def _tlsa_flaw(handshake: Any, records: Sequence[Any], names: Sequence[str]) -> Failure | None:
    return None if chain_matches(_presented(handshake), records, names) else Failure.TLSA_MISMATCH


def _presented(handshake: Any) -> list[bytes]:
    """The chain that the server sent, as DER."""
    if hasattr(handshake, "get_unverified_chain"):
        return [bytes(each) for each in handshake.get_unverified_chain()]
    # Public since Python 3.13 only; 3.11 and 3.12 have it one layer below.
    chain = handshake._sslobj.get_unverified_chain() or ()
    return [ssl.PEM_cert_to_DER_cert(each.public_bytes()) for each in chain]


def _name_flaw(handshake: Any, names: Sequence[str]) -> Failure | None:
    shown = [value.lower() for kind, value in handshake.getpeercert().get("subjectAltName", ()) if kind == "DNS"]
    fits = any(_is_for(pattern, name) for pattern in shown for name in names)
    return None if fits else Failure.CERTIFICATE_NAME


def _is_for(pattern: str, name: str) -> bool:
    """Whether a certificate's name covers a host name; a star stands for the whole first label (RFC 6125 §6.4.3)."""
    if pattern.startswith("*."):
        _, dot, parent = name.partition(".")
        return bool(dot) and pattern[2:] == parent
    return pattern == name
