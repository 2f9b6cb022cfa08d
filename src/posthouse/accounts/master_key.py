"""The master key (answers 19): a keyring in a file of mode 0600, never in the database; everything else is derived from it.

The file has one line a key: its id (1 to 255) and 32 bytes in base64url. The last line is the current key; older ones still open what
they sealed and the links that they signed, for ever (UNS-5).
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import secrets
from collections.abc import Mapping
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from posthouse.accounts.queries import SQL
from posthouse.db.pool import Connection, Pool
from posthouse.mail.tokens import Tokens
from posthouse.model.errors import KeyWrong

_KEY_BYTES = 32
_NONCE_BYTES = 12


class MasterKey:
    """A keyring. Seals secrets for the database and derives the keys of links and return paths."""

    def __init__(self, keys: Mapping[int, bytes], current: int) -> None:
        self._keys = dict(keys)
        self._current = current

    def seal(self, secret: bytes, context: str) -> bytes:
        """Encrypt a secret for the database (AES-256-GCM), bound to what it is for."""
        nonce = secrets.token_bytes(_NONCE_BYTES)
        sealed = AESGCM(self._derived(self._current, b"seal")).encrypt(nonce, secret, context.encode())
        return bytes([self._current]) + nonce + sealed

    def open(self, sealed: bytes, context: str) -> bytes:
        """The secret that was sealed for this context. Raises KeyWrong."""
        if not sealed or sealed[0] not in self._keys:
            raise KeyWrong(f"The secret of {context} was sealed with a master key that is not in the keyring.")
        nonce, rest = sealed[1 : 1 + _NONCE_BYTES], sealed[1 + _NONCE_BYTES :]
        try:
            return AESGCM(self._derived(sealed[0], b"seal")).decrypt(nonce, rest, context.encode())
        except InvalidTag as error:
            raise KeyWrong(f"The secret of {context} does not open with the master key.") from error

    def tokens(self) -> Tokens:
        """The tokens of links and return paths, under keys of their own."""
        return Tokens({number: self._derived(number, b"tokens") for number in self._keys}, self._current)

    def fingerprints(self) -> dict[int, bytes]:
        """Key id → a digest that tells keys apart and nothing else."""
        return {number: hashlib.sha256(self._derived(number, b"fingerprint")).digest() for number in self._keys}

    def _derived(self, number: int, purpose: bytes) -> bytes:
        derive = HKDFExpand(algorithm=hashes.SHA256(), length=_KEY_BYTES, info=b"posthouse " + purpose)
        return derive.derive(self._keys[number])


def create_key(path: Path) -> bool:
    """Make a keyring with one fresh key where there is none; returns whether it was made."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    except OSError as error:
        raise KeyWrong(f"The master key cannot be written to {path}: {error.strerror}.") from error
    with os.fdopen(descriptor, "w", encoding="ascii") as file:
        file.write(f"1 {base64.urlsafe_b64encode(secrets.token_bytes(_KEY_BYTES)).decode()}\n")
    return True


def load_key(path: Path) -> MasterKey:
    """Read the keyring. Raises KeyWrong when it is missing, readable by others, or not a keyring."""
    try:
        if path.stat().st_mode & 0o077:
            raise KeyWrong(f"{path} can be read by other accounts: run `chmod 600 {path}`.")
        lines = path.read_text(encoding="ascii").split("\n")
    except FileNotFoundError as error:
        raise KeyWrong(
            f"The master key {path} is missing: restore it from your backup; nothing sealed opens without it."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise KeyWrong(f"The master key {path} cannot be read.") from error
    keys: dict[int, bytes] = {}
    for line in filter(None, (line.strip() for line in lines)):
        number, _, text = line.partition(" ")
        try:
            key = base64.b64decode(text, altchars=b"-_", validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not number.isdigit() or not 1 <= int(number) <= 255 or len(key) != _KEY_BYTES:
            raise KeyWrong(f"The master key {path} is damaged: a line is not an id and a key.")
        keys[int(number)] = key
    if not keys:
        raise KeyWrong(f"The master key {path} is empty.")
    return MasterKey(keys, list(keys)[-1])


async def prove_key(connection: Connection | Pool, key: MasterKey) -> None:
    """Refuse a keyring that is not this database's: its fingerprints are noted at first use. Raises KeyWrong."""
    known = {row["key_id"]: row["fingerprint"] for row in await connection.fetch(SQL["key_fingerprints"])}
    ours = key.fingerprints()
    for number, fingerprint in known.items():
        if ours.get(number) != fingerprint:
            raise KeyWrong(
                f"The master key does not belong to this database: key {number} is missing or another one. Restore the file that was "
                "in use."
            )
    for number in ours.keys() - known.keys():
        await connection.execute(SQL["note_fingerprint"], number, ours[number])
