"""What encryption a domain's mail asks for, as values: found by the policy book, carried by a route, kept by the dialler.

A policy is part of the key under which connections are reused (answers 13): mail of two domains shares a connection only where both
ask for the same.
"""

from __future__ import annotations

from collections.abc import Callable

from msgspec import Struct, structs

from posthouse.mail.mta_sts import mx_matches
from posthouse.mail.replies import Failure
from posthouse.mail.reports.tls_report import PolicyType, ResultType
from posthouse.model.closed_list import ClosedList
from posthouse.model.ports import Tlsa


class TlsNeed(ClosedList):
    """How much encryption mail needs, from least to most."""

    OPPORTUNISTIC = "opportunistic", "Encrypted where the server offers it (TLS-1)."
    ENCRYPT = "encrypt", "Encrypted, whatever the certificate."
    VERIFY = "verify", "Encrypted, with a certificate of a trusted authority for the server's name."
    DANE = "dane", "Encrypted, with a certificate that the domain's signed DNS names."


class HostTlsa(Struct, frozen=True):
    """The usable TLSA records of one mail exchanger, in sorted order; none where it has only unusable ones (RFC 7672 §2.2)."""

    host: str
    records: tuple[Tlsa, ...]


class Reported(Struct, frozen=True):
    """How sessions under a policy are told to the recipient's domain (RFC 8460 §4.4).

    lines: the policy's own words; mx: its host patterns; flaw: what was wrong with the policy itself, which every session is told with.
    """

    domain: str
    kind: PolicyType
    lines: tuple[str, ...] = ()
    mx: tuple[str, ...] = ()
    flaw: ResultType | None = None


class HostTls(Struct, frozen=True):
    """What one mail exchanger must do.

    names: of the certificate, any one of them; empty: the host's own name; under DANE, names beside the host's own.
    testing: a failure is told, and then gives way. flaw: what is told of every session with this host.
    """

    need: TlsNeed
    names: tuple[str, ...] = ()
    tlsa: tuple[Tlsa, ...] = ()
    testing: bool = False
    flaw: ResultType | None = None


class TlsPolicy(Struct, frozen=True, cache_hash=True):
    """The policy in force for a domain's mail.

    need: of hosts that `tlsa` does not name. testing: the host patterns of an MTA-STS policy that is not enforced yet, which is tried
    and reported, and gives way. next_hop: the recipient's domain, where a DANE-TA certificate may be for it. report: set where the domain
    wants TLS reports; such a domain has its connections for itself, so that sessions can be counted.
    """

    need: TlsNeed = TlsNeed.OPPORTUNISTIC
    names: tuple[str, ...] = ()
    testing: tuple[str, ...] = ()
    tlsa: tuple[HostTlsa, ...] = ()
    next_hop: str = ""
    report: Reported | None = None

    def of_host(self, host: str) -> HostTls:
        """What this policy asks of one of the domain's mail exchangers. DANE goes before everything else (RFC 8461 §2)."""
        for each in self.tlsa:
            if each.host == host:
                if each.records:
                    return HostTls(TlsNeed.DANE, (self.next_hop,) if self.next_hop else (), each.records)
                return HostTls(TlsNeed.ENCRYPT)
        if not self.testing:
            return HostTls(self.need, self.names)
        if mx_matches(host, self.testing):
            return HostTls(TlsNeed.VERIFY, testing=True)
        return HostTls(self.need, flaw=ResultType.VALIDATION)

    def at_least_encrypted(self) -> TlsPolicy:
        """The same policy where nothing may leave in the clear."""
        return self if self.need is not TlsNeed.OPPORTUNISTIC else structs.replace(self, need=TlsNeed.ENCRYPT)


OPPORTUNISTIC = TlsPolicy()

# Told of every session that came as far as STARTTLS: how the domain is told, the mail exchanger, what went wrong.
SessionTold = Callable[[Reported, str, ResultType | None], None]

_RESULTS = {
    Failure.TLS_REQUIRED: ResultType.STARTTLS_MISSING,
    Failure.CERTIFICATE_NAME: ResultType.HOST_MISMATCH,
    Failure.CERTIFICATE_EXPIRED: ResultType.EXPIRED,
    Failure.CERTIFICATE_UNTRUSTED: ResultType.NOT_TRUSTED,
    Failure.TLSA_MISMATCH: ResultType.TLSA_INVALID,
    Failure.TLSA_UNANSWERED: ResultType.DNSSEC_INVALID,
}


def result_of(failure: Failure | None) -> ResultType:
    """How reports name a failure; None stands for a reply that refused STARTTLS."""
    return ResultType.STARTTLS_MISSING if failure is None else _RESULTS.get(failure, ResultType.VALIDATION)
