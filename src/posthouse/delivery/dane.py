"""DANE for SMTP (RFC 7672): the TLSA records of mail exchangers, and whether a certificate chain matches them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from posthouse.mail.replies import Failure
from posthouse.model.ports import DnsTrouble, NoSuchDomain, Tlsa, ValidatingResolver

DANE_TA, _DANE_EE = 2, 3
_FULL, _SHA256, _SHA512 = 0, 1, 2
_DIGEST_BYTES = {_SHA256: 32, _SHA512: 64}
_LONGEST_LIFE = 3600.0
_SHORTEST_LIFE = 60.0
_SILENCE_LIFE = 60.0
_REMEMBERED = 50_000
# A chain that is longer than this is not looked through.
_LONGEST_CHAIN = 10

# None: DANE does not apply to the host. Empty: it has only unusable records. A failure: the host must not be used now.
TlsaFound = tuple[Tlsa, ...] | None | Failure


class TlsaBook:
    """Remembers the TLSA records of mail exchangers for as long as DNS says, an hour at most."""

    def __init__(self, resolver: ValidatingResolver) -> None:
        self._resolver = resolver
        self._known: dict[str, tuple[TlsaFound, datetime]] = {}

    async def find(self, host: str, now: datetime) -> tuple[TlsaFound, datetime]:
        """(the usable records of a mail exchanger, until when that holds)."""
        known = self._known.get(host)
        if known is not None and known[1] > now:
            return known
        found, seconds = await self._look_up(host)
        if len(self._known) >= _REMEMBERED:
            self._known.clear()
        self._known[host] = found, now + timedelta(seconds=min(max(seconds, _SHORTEST_LIFE), _LONGEST_LIFE))
        return self._known[host]

    async def _look_up(self, host: str) -> tuple[TlsaFound, float]:
        try:
            # RFC 7672 §2.2.2: a host whose addresses are not signed has no signed TLSA records, and its name servers may choke on them.
            addresses = await self._resolver.validated_addresses(host)
            if not addresses.authentic:
                return None, addresses.seconds
            answer = await self._resolver.tlsa(f"_25._tcp.{host}")
        except NoSuchDomain:
            return None, _SILENCE_LIFE
        except DnsTrouble:
            # RFC 7672 §2.1.1: an attacker who suppresses the answer must not win the clear.
            return Failure.TLSA_UNANSWERED, _SILENCE_LIFE
        if not answer.authentic or not answer.records:
            return None, answer.seconds
        return usable(answer.records), answer.seconds


def usable(records: Sequence[Tlsa]) -> tuple[Tlsa, ...]:
    """The records that mail can be checked with (RFC 7672 §3.1.3: usages 0 and 1 cannot), in sorted order."""
    found = [
        record
        for record in records
        if record.usage in (DANE_TA, _DANE_EE)
        and record.selector in (0, 1)
        and (record.data if record.matching == _FULL else len(record.data) == _DIGEST_BYTES.get(record.matching))
    ]
    return tuple(sorted(set(found), key=lambda each: (each.usage, each.selector, each.matching, each.data)))


def chain_matches(chain: Sequence[bytes], records: Sequence[Tlsa], names: Sequence[str]) -> bool:
    """Whether a server's chain (DER, its own certificate first) matches one of its usable TLSA records.

    names: what a certificate under a DANE-TA record may be issued for (RFC 7672 §3.2.2). A DANE-EE record needs neither name nor date
    (§3.1.1).
    """
    if not chain:
        return False
    if any(_matches(record, chain[0]) for record in records if record.usage == _DANE_EE):
        return True
    anchors = [record for record in records if record.usage == DANE_TA]
    presented = chain[1:_LONGEST_CHAIN]
    for record in anchors:
        # The anchor itself may be left out by the server where the record holds it whole (RFC 7671 §5.2.2).
        whole = [record.data] if (record.selector, record.matching) == (0, _FULL) else []
        for anchor in [*(der for der in presented if _matches(record, der)), *whole]:
            if _leads_to(anchor, chain[0], presented, names):
                return True
    return False


def _matches(record: Tlsa, certificate: bytes) -> bool:
    selected = certificate
    if record.selector == 1:
        try:
            key = x509.load_der_x509_certificate(certificate).public_key()
        except (ValueError, UnsupportedAlgorithm):
            return False
        selected = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if record.matching == _SHA256:
        selected = hashlib.sha256(selected).digest()
    elif record.matching == _SHA512:
        selected = hashlib.sha512(selected).digest()
    return selected == record.data


def _leads_to(anchor: bytes, leaf: bytes, presented: Sequence[bytes], names: Sequence[str]) -> bool:
    try:
        store = Store([x509.load_der_x509_certificate(anchor)])
        certificate = x509.load_der_x509_certificate(leaf)
        between = [x509.load_der_x509_certificate(der) for der in presented if der != anchor]
    except ValueError:
        return False
    # Authorities of mail operators' own follow no browser's profile: what counts is that they may sign, and the name.
    authority = (
        ExtensionPolicy.permit_all()
        .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
        .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs_certificates)
    )
    server = ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
    for name in names:
        builder = PolicyBuilder().store(store).extension_policies(ca_policy=authority, ee_policy=server)
        try:
            builder.build_server_verifier(x509.DNSName(name)).verify(certificate, between)
        except (VerificationError, ValueError):
            continue
        return True
    return False


def _is_authority(_: object, certificate: x509.Certificate, constraints: x509.BasicConstraints) -> None:
    if not constraints.ca:
        raise ValueError("no authority")


def _signs_certificates(_: object, certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.key_cert_sign:
        raise ValueError("does not sign certificates")
