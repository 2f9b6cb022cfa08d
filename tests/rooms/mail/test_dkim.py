"""Our signatures, judged by dkimpy and by OpenDKIM."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import dkim
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from posthouse.mail.dkim import DkimSigner, sign_message
from posthouse.mail.dkim_canonical import canonical_body, canonical_field, split_message
from posthouse.mail.dkim_keys import dkim_record, generate_ed25519, generate_rsa
from posthouse.model.errors import KeyWrong

AT = datetime(2026, 11, 24, 9, 0, tzinfo=UTC)
AWKWARD = (
    b"From: Joe  \t SixPack <joe@football.example.com>\r\n"
    b"To:Suzie Q <suzie@shopping.example.net>\r\n"
    b"Subject:  Is   dinner\r\n\t ready?  \r\n"
    b"Received: two\r\nReceived: one\r\n"
    b"MIME-Version: 1.0\r\n"
    b"\r\n"
    b"Hi.\t \r\n\r\nWe  lost\tthe game.  \r\n Are you hungry yet?\r\n\r\n\r\n"
)


@pytest.fixture(scope="module")
def rsa_key() -> RSAPrivateKey:
    return generate_rsa()


@pytest.fixture(scope="module")
def ed25519_key() -> Ed25519PrivateKey:
    return generate_ed25519()


@pytest.fixture(scope="module")
def signers(rsa_key: RSAPrivateKey, ed25519_key: Ed25519PrivateKey) -> list[DkimSigner]:
    return [DkimSigner("example.com", "rsa", rsa_key), DkimSigner("example.com", "ed", ed25519_key)]


@pytest.fixture(scope="module")
def dns(rsa_key: RSAPrivateKey, ed25519_key: Ed25519PrivateKey) -> Callable[..., bytes]:
    records = {
        b"rsa._domainkey.example.com.": dkim_record(rsa_key.public_key()).encode(),
        b"ed._domainkey.example.com.": dkim_record(ed25519_key.public_key()).encode(),
    }

    def look_up(name: bytes, timeout: int = 5) -> bytes:
        return records[name]

    return look_up


def test_both_algorithms_verify_on_a_message_that_needs_real_canonicalization(
    signers: list[DkimSigner], dns: Callable[..., bytes]
) -> None:
    signed = sign_message(AWKWARD, signers, AT)
    assert signed.endswith(AWKWARD)
    assert [dkim.DKIM(signed).verify(index, dnsfunc=dns) for index in (0, 1)] == [True, True]
    assert b"a=rsa-sha256" in signed.split(b"DKIM-Signature")[1]
    assert b"a=ed25519-sha256" in signed.split(b"DKIM-Signature")[2]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (b"lost\tthe", b"won\tthe"),
        (b"Suzie", b"Susie"),
        (b"From: Joe", b"From: Eve <eve@example.com>\r\nFrom: Joe"),
        (b"To:Suzie", b"Cc: eve@example.com\r\nTo:Suzie"),
        (b"MIME-Version: 1.0", b"Reply-To: eve@example.com\r\nMIME-Version: 1.0"),
        (b"MIME-Version: 1.0", b"Content-Type: text/html\r\nMIME-Version: 1.0"),
    ],
)
def test_a_changed_or_added_field_breaks_the_signature(
    signers: list[DkimSigner], dns: Callable[..., bytes], before: bytes, after: bytes
) -> None:
    signed = sign_message(AWKWARD, signers, AT)
    changed = signed.replace(before, after)
    assert changed != signed
    assert not _verifies(changed, dns)


def _verifies(message: bytes, dns: Callable[..., bytes]) -> bool:
    try:
        return bool(dkim.DKIM(message).verify(0, dnsfunc=dns))
    except dkim.ValidationError:
        # dkimpy's way to say that the body is another one.
        return False


def test_the_signature_says_when_and_limits_nothing(signers: list[DkimSigner]) -> None:
    signed = sign_message(AWKWARD, signers[:1], AT)
    field = re.sub(rb"\s+", b"", signed[: signed.index(b"From: Joe")])
    tags = dict(tag.split(b"=", 1) for tag in field.partition(b":")[2].split(b";"))
    assert tags[b"t"] == b"%d" % AT.timestamp()
    assert tags[b"c"] == b"relaxed/relaxed"
    assert b"l" not in tags
    names = tags[b"h"].lower().split(b":")
    present = ["from", "to", "subject", "mime-version"]
    absent = ["cc", "date", "reply-to", "message-id", "content-type"]
    assert {name.decode(): names.count(name) for name in names} == {
        **dict.fromkeys(present, 2),
        **dict.fromkeys(absent, 1),
    }


def test_list_and_complaint_fields_are_signed_once(signers: list[DkimSigner]) -> None:
    listed = b"List-Id: <x.example>\r\nlist-unsubscribe: <https://x>\r\nFeedback-ID: a:b:c:d\r\nCFBL-Address: a@b\r\n"
    signed = sign_message(listed + AWKWARD, signers[:1], AT)
    names = re.sub(rb"\s", b"", signed.split(b"h=", 1)[1].split(b";")[0]).split(b":")
    assert [names.count(n) for n in (b"List-Id", b"List-Unsubscribe", b"Feedback-ID", b"CFBL-Address")] == [1, 1, 1, 1]


def test_real_messages_verify_after_signing(
    signers: list[DkimSigner], dns: Callable[..., bytes], corpora: Path
) -> None:
    """Whatever real mailers wrote, our canonical form is dkimpy's."""
    tried = 0
    for path in sorted((corpora / "mime").glob("*.eml"))[:60]:
        content = re.sub(rb"\r?\n", b"\r\n", path.read_bytes())
        fields, _ = split_message(content)
        if b"\r" in content.replace(b"\r\n", b"") or sum(name.lower() == "from" for name, _ in fields) != 1:
            continue
        signed = sign_message(content, signers[1:], AT)
        try:
            verified = dkim.DKIM(signed).verify(0, dnsfunc=dns)
        except (dkim.MessageFormatError, ValueError):
            # dkimpy refuses a header that the message itself already had broken.
            continue
        assert verified, path.name
        tried += 1
    assert tried >= 20


def test_a_published_vector_has_our_body_hash() -> None:
    """RFC 6376 §3.4.5, and the two empty bodies of §3.4.3 and §3.4.4."""
    assert canonical_field(b"A: X\r\n") == b"a:X\r\n"
    assert canonical_field(b"B : Y\t\r\n\tZ  \r\n") == b"b:Y Z\r\n"
    assert canonical_body(b" C \r\nD \t E\r\n\r\n\r\n") == b" C\r\nD E\r\n"
    assert canonical_body(b"") == b""
    assert canonical_body(b"\r\n\r\n") == b""
    assert canonical_body(b"no line end") == b"no line end\r\n"


def test_repeated_fields_are_signed_from_the_bottom_up(signers: list[DkimSigner], dns: Callable[..., bytes]) -> None:
    signed = sign_message(b"List-Help: <a:1>\r\nList-Help: <b:2>\r\n" + AWKWARD, signers[:1], AT)
    assert _verifies(signed, dns)
    swapped = signed.replace(b"<a:1>", b"<x>").replace(b"<b:2>", b"<a:1>").replace(b"<x>", b"<b:2>")
    assert not _verifies(swapped, dns)


def test_without_signers_the_message_is_untouched() -> None:
    assert sign_message(AWKWARD, [], AT) is AWKWARD


def test_a_short_rsa_key_is_refused_and_1024_is_not(corpora: Path) -> None:
    class ShortKey(RSAPrivateKey):
        key_size = 768

    ShortKey.__abstractmethods__ = frozenset()
    with pytest.raises(KeyWrong, match="768 bits"):
        DkimSigner("example.com", "s", ShortKey())  # type: ignore[abstract]
    assert DkimSigner("example.com", "s", generate_rsa(1024)).algorithm == "rsa-sha256"


@pytest.mark.skipif(shutil.which("opendkim") is None, reason="opendkim is not installed")
def test_opendkim_verifies_both_signatures(
    signers: list[DkimSigner], dns: Callable[..., bytes], tmp_path: Path
) -> None:
    keys = "".join(
        f"{name}._domainkey.example.com {dns(f'{name}._domainkey.example.com.'.encode()).decode()}\n"
        for name in ("rsa", "ed")
    )
    (tmp_path / "keys").write_text(keys)
    (tmp_path / "opendkim.conf").write_text(f"TestPublicKeys {tmp_path}/keys\nMode v\nSyslog no\n")
    whole = AWKWARD.replace(b"MIME", b"Date: Tue, 24 Nov 2026 09:00:00 +0000\r\nMIME")
    message = tmp_path / "message"
    verdicts = []
    for content in (sign_message(whole, signers, AT), sign_message(whole, signers, AT).replace(b"hungry", b"thirsty")):
        message.write_bytes(content)
        command = ["opendkim", "-x", str(tmp_path / "opendkim.conf"), "-t", str(message), "-v", "-v"]
        verdicts.append(subprocess.run(command, capture_output=True, text=True, check=False).stdout)
    assert verdicts[0].count("dkim=pass") == 2
    assert "header.a=ed25519-sha256" in verdicts[0]
    assert "dkim=pass" not in verdicts[1]
