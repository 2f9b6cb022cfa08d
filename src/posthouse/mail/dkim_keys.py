"""Keys for DKIM: new ones, and the TXT record that publishes the public half (RFC 6376 §3.6.1, RFC 8463 §4)."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, RSAPublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat


def generate_rsa(bits: int = 2048) -> RSAPrivateKey:
    """A new RSA key; 2048 bits is what DKIM-1 asks for."""
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def generate_ed25519() -> Ed25519PrivateKey:
    """A new Ed25519 key, for a second signature."""
    return Ed25519PrivateKey.generate()


def dkim_record(public_key: RSAPublicKey | Ed25519PublicKey) -> str:
    """The text of the TXT record at `selector._domainkey.domain`; DNS needs it cut into strings of at most 255 octets."""
    if isinstance(public_key, RSAPublicKey):
        octets, kind = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo), "rsa"
    else:
        octets, kind = public_key.public_bytes(Encoding.Raw, PublicFormat.Raw), "ed25519"
    return f"v=DKIM1; k={kind}; p={base64.b64encode(octets).decode()}"
