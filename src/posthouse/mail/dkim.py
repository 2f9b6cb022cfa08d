"""DKIM signatures (RFC 6376): relaxed/relaxed, rsa-sha256 and ed25519-sha256 (RFC 8463), oversigned (DKIM-1, DKIM-2).

`sign_message` signs any message. `SignaturePlan` is its hot path: for messages that all have the same header fields, everything
but time, body hash and signature is made once.
"""

from __future__ import annotations

import re
from binascii import b2a_base64
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Protocol

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed
from cryptography.hazmat.primitives.hashes import SHA256

from posthouse.mail.dkim_canonical import canonical_body, canonical_field, split_message
from posthouse.model.errors import KeyWrong

# RFC 8301 §3.2: verifiers refuse shorter keys.
_SHORTEST_RSA = 1024
# Named once more than they occur, so that nobody can add another one (RFC 6376 §8.15).
_OVERSIGNED = ("From", "To", "Cc", "Subject", "Date", "Reply-To", "Message-ID", "MIME-Version", "Content-Type")
_SIGNED = (
    *_OVERSIGNED,
    *("Sender", "In-Reply-To", "References", "Content-Transfer-Encoding", "Auto-Submitted"),
    *("List-Id", "List-Unsubscribe", "List-Unsubscribe-Post", "List-Help", "List-Subscribe", "List-Post", "List-Owner"),
    *("List-Archive", "Feedback-ID", "CFBL-Address", "CFBL-Feedback-ID"),
)
_PKCS1 = PKCS1v15()
_READY_HASH = Prehashed(SHA256())
_B64_LINE = 72
_FOLD = re.compile(rb"\r\n[ \t]+")


class Signer(Protocol):
    """Whatever can sign for one selector of one domain."""

    domain: str
    selector: str
    algorithm: str

    def sign_digest(self, digest: bytes) -> bytes:
        """The signature of a SHA-256 digest (32 octets)."""
        ...


class DkimSigner:
    """A private key with the domain and selector under which its public half is published."""

    def __init__(self, domain: str, selector: str, private_key: RSAPrivateKey | Ed25519PrivateKey) -> None:
        """domain: as A-label. Raises KeyWrong for an RSA key under 1024 bits (DKIM-1)."""
        if isinstance(private_key, RSAPrivateKey) and private_key.key_size < _SHORTEST_RSA:
            raise KeyWrong(
                f"The DKIM key of {domain} has {private_key.key_size} bits; receivers refuse RSA keys under 1024. Make a new key."
            )
        self.domain = domain
        self.selector = selector
        self.algorithm = "rsa-sha256" if isinstance(private_key, RSAPrivateKey) else "ed25519-sha256"
        self._key = private_key

    def sign_digest(self, digest: bytes) -> bytes:
        """The signature of a SHA-256 digest; for Ed25519 the digest is the message (RFC 8463 §3)."""
        if isinstance(self._key, RSAPrivateKey):
            return self._key.sign(digest, _PKCS1, _READY_HASH)
        return self._key.sign(digest)


class SignaturePlan:
    """DKIM-Signature fields for messages that all have the same header fields, in the same order.

    names: the names of a message's header fields from top to bottom. `signed` tells which of them, in which order, the canonical
    header must hold.
    """

    def __init__(self, signers: Sequence[Signer], names: Iterable[str]) -> None:
        self.signed, listed = _signed_names(names)
        self._templates = [(signer, *_signature_template(signer, listed)) for signer in signers]

    def sign(self, canonical_header: bytes, body_hash: bytes, timestamp: int) -> bytes:
        """The DKIM-Signature fields, in CRLF lines, ready to stand above the message.

        canonical_header: the signed fields in relaxed form, each ending in CRLF, in the order of `signed`; body_hash: SHA-256 of the
        canonical body; timestamp: seconds since 1970.
        """
        hash_text = b2a_base64(body_hash, newline=False)
        fields = []
        for signer, wire, canonical in self._templates:
            digest = sha256(canonical_header + canonical % (timestamp, hash_text)).digest()
            signature = b2a_base64(signer.sign_digest(digest), newline=False)
            lines = [signature[at : at + _B64_LINE] for at in range(0, len(signature), _B64_LINE)]
            fields.append(wire % (timestamp, hash_text) + b"\r\n\t".join(lines) + b"\r\n")
        return b"".join(fields)


def sign_message(content: bytes, signers: Sequence[Signer], at: datetime) -> bytes:
    """The same RFC 5322 message with a DKIM-Signature per signer on top.

    content: CRLF lines, not dot-stuffed; at: aware. Without signers it comes back as it is.
    """
    if not signers:
        return content
    fields, body = split_message(content)
    plan = SignaturePlan(signers, [name for name, _ in fields])
    by_name: dict[str, list[bytes]] = {}
    for name, raw in fields:
        by_name.setdefault(name.lower(), []).append(canonical_field(raw))
    # RFC 6376 §5.4.2: several fields of one name are taken from the bottom up.
    canonical = b"".join(by_name[name.lower()].pop() for name in plan.signed)
    return plan.sign(canonical, sha256(canonical_body(body)).digest(), int(at.timestamp())) + content


def _signed_names(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """(the fields that enter the hash, the names that h= lists)."""
    counts = Counter(name.lower() for name in names)
    signed: list[str] = []
    listed: list[str] = []
    for name in _SIGNED:
        present = [name] * counts[name.lower()]
        signed += present
        listed += [*present, name] if name in _OVERSIGNED else present
    return tuple(signed), tuple(listed)


def _signature_template(signer: Signer, listed: Sequence[str]) -> tuple[bytes, bytes]:
    """The field up to `b=` as sent, and as it is hashed (RFC 6376 §3.7); both wait for timestamp and body hash."""
    lines = [
        f"DKIM-Signature: v=1; a={signer.algorithm}; c=relaxed/relaxed;",
        f"d={signer.domain}; s={signer.selector};",
        "t=%d;",
        f"h={listed[0]}",
    ]
    for name in listed[1:]:
        if len(lines[-1]) + len(name) > _B64_LINE:
            lines.append(f":{name}")
        else:
            lines[-1] += f":{name}"
    wire = ("\r\n\t".join([*lines[:-1], f"{lines[-1]};", "bh=%b;", "b="])).encode()
    return wire, _FOLD.sub(b" ", wire).replace(b"DKIM-Signature: ", b"dkim-signature:")
