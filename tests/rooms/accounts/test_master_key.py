"""The master key: sealed secrets, a private file, rotation, and the refusal of a wrong one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from posthouse.accounts import MasterKey, create_key, load_key, prove_key
from posthouse.db.pool import Pool
from posthouse.mail.tokens import Purpose, Subject
from posthouse.model.errors import KeyWrong

OLD, NEW = bytes(range(32)), bytes(range(1, 33))
LINE = "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="


def test_a_key_file_is_made_once_and_for_its_owner(tmp_path: Path) -> None:
    file = tmp_path / "posthouse.key"
    assert create_key(file) is True
    before = file.read_bytes()
    assert create_key(file) is False
    assert file.read_bytes() == before
    assert file.stat().st_mode & 0o777 == 0o600
    key = load_key(file)
    assert key.open(key.seal(b"secret", "here"), "here") == b"secret"
    other = tmp_path / "other.key"
    create_key(other)
    assert other.read_bytes() != before
    with pytest.raises(KeyWrong, match="cannot be written to"):
        create_key(tmp_path / "nowhere" / "posthouse.key")


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "posthouse.key"
    create_key(file)
    file.chmod(mode)
    with pytest.raises(KeyWrong, match=r"can be read by other accounts: run `chmod 600 .*posthouse\.key`"):
        load_key(file)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("", "is empty"),
        ("\n \n", "is empty"),
        ("1\n", "a line is not an id and a key"),
        (f"x {LINE}", "a line is not an id and a key"),
        (f"0 {LINE}", "a line is not an id and a key"),
        (f"256 {LINE}", "a line is not an id and a key"),
        (f"1 {LINE[:-4]}", "a line is not an id and a key"),
        (f"1 {LINE[:-1]}!", "a line is not an id and a key"),
        ("1 ä", "cannot be read"),
    ],
)
def test_a_damaged_keyring_is_refused(tmp_path: Path, text: str, sentence: str) -> None:
    file = tmp_path / "posthouse.key"
    file.write_text(text, encoding="utf-8")
    file.chmod(0o600)
    with pytest.raises(KeyWrong, match=sentence):
        load_key(file)


def test_a_missing_key_tells_what_to_restore(tmp_path: Path) -> None:
    with pytest.raises(KeyWrong, match="is missing: restore it from your backup"):
        load_key(tmp_path / "posthouse.key")


def test_the_last_line_is_the_current_key(tmp_path: Path) -> None:
    file = tmp_path / "posthouse.key"
    file.write_text(f"1 {LINE}\n\n7 {LINE.replace('A', 'B', 1)}\n", encoding="ascii")
    file.chmod(0o600)
    assert load_key(file).seal(b"", "x")[0] == 7


def test_a_sealed_secret_is_bound_to_its_key_its_purpose_and_every_octet() -> None:
    key = MasterKey({1: OLD}, 1)
    sealed = key.seal(b"secret", "DKIM a example.com")
    assert b"secret" not in sealed
    assert key.seal(b"secret", "DKIM a example.com") != sealed, "a nonce of its own"
    for wrong in (*(sealed[:n] + bytes([sealed[n] ^ 1]) + sealed[n + 1 :] for n in range(1, len(sealed))), sealed[:9]):
        with pytest.raises(KeyWrong, match="does not open with the master key"):
            key.open(wrong, "DKIM a example.com")
    with pytest.raises(KeyWrong, match=r"The secret of DKIM b example\.com does not open"):
        key.open(sealed, "DKIM b example.com")
    for other in (b"", bytes([2]) + sealed[1:]):
        with pytest.raises(KeyWrong, match="was sealed with a master key that is not in the keyring"):
            key.open(other, "DKIM a example.com")
    with pytest.raises(KeyWrong):
        MasterKey({1: NEW}, 1).open(sealed, "DKIM a example.com")


def test_rotation_opens_what_is_old_and_seals_with_what_is_new() -> None:
    before, after = MasterKey({1: OLD}, 1), MasterKey({1: OLD, 2: NEW}, 2)
    assert after.open(before.seal(b"secret", "x"), "x") == b"secret"
    with pytest.raises(KeyWrong):
        before.open(after.seal(b"secret", "x"), "x")
    subject = Subject(1, 2, 3, 4, 5)
    link = before.tokens().link(Purpose.UNSUBSCRIBE, subject)
    assert after.tokens().open_link(Purpose.UNSUBSCRIBE, link) == subject
    assert after.tokens().link(Purpose.UNSUBSCRIBE, subject) != link


async def test_a_database_knows_its_keys(pool: Pool) -> None:
    await prove_key(pool, MasterKey({1: OLD}, 1))
    await prove_key(pool, MasterKey({1: OLD}, 1))
    await prove_key(pool, MasterKey({1: OLD, 2: NEW}, 2))
    for wrong in (MasterKey({1: NEW, 2: NEW}, 1), MasterKey({2: NEW}, 2), MasterKey({1: OLD}, 1)):
        with pytest.raises(KeyWrong, match=r"does not belong to this database: key \d is missing or another one"):
            await prove_key(pool, wrong)
    kept = [bytes(row[0]) for row in await pool.fetch("select fingerprint from master_key_fingerprints")]
    assert len(kept) == 2
    assert not {OLD, NEW} & set(kept)


def test_a_key_may_lie_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from posthouse.data_directory import DataDirectory

    assert DataDirectory(tmp_path).key_file == tmp_path / "posthouse.key"
    monkeypatch.setitem(os.environ, "POSTHOUSE_SECRET_KEY_FILE", str(tmp_path / "secret"))
    assert DataDirectory(tmp_path).key_file == tmp_path / "secret"
