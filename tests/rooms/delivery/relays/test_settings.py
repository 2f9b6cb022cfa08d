"""Settings of relay sources: what is wrong is said in one sentence, and a secret is seen by nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest

from posthouse.accounts.master_key import MasterKey
from posthouse.delivery.relays import RelayKind, open_settings, parse_settings, seal_settings
from posthouse.model.errors import KeyWrong, SettingWrong

KEY = MasterKey({1: b"k" * 32}, 1)
SMTP: dict[str, object] = {"host": "smtp.example.com", "user": "ann", "password": "pa ss"}


@pytest.mark.parametrize("kind", RelayKind, ids=str)
def test_secrets_are_sealed_and_open_again(given: dict[RelayKind, dict[str, object]], kind: RelayKind) -> None:
    settings = given.get(kind, SMTP)
    stored = seal_settings(kind, settings, "west", KEY.seal)
    written = json.dumps(stored)
    assert "secret+key" not in written
    assert "very.secret" not in written
    assert "very-secret" not in written
    assert "pa ss" not in written
    opened = open_settings(kind, stored, "west", KEY.open)
    assert opened == parse_settings(kind, settings, "west")
    assert "secret" not in repr(opened).replace("secret_access_key", "")
    assert "pa ss" not in repr(opened)


def test_a_sealed_secret_opens_for_no_other_source() -> None:
    stored = seal_settings(RelayKind.SMTP, SMTP, "west", KEY.seal)
    with pytest.raises(KeyWrong):
        open_settings(RelayKind.SMTP, stored, "east", KEY.open)


@pytest.mark.parametrize("sealed", ["???", 7, ""])
def test_damage_is_said(sealed: object) -> None:
    with pytest.raises((SettingWrong, KeyWrong), match="west"):
        open_settings(RelayKind.SMTP, {"host": "a", "sealed": sealed}, "west", KEY.open)


def test_a_smarthost_is_what_the_dialler_knows() -> None:
    settings: Any = parse_settings(RelayKind.SMTP, {**SMTP, "implicit_tls": True, "port": 465}, "west")
    relay = settings.relay()
    assert (relay.host, relay.port, relay.implicit_tls, relay.user, relay.password) == (
        "smtp.example.com",
        465,
        True,
        "ann",
        "pa ss",
    )
    open_one: Any = parse_settings(RelayKind.SMTP, {"host": "10.0.0.1"}, "west")
    assert (open_one.relay().user, open_one.relay().password, open_one.relay().port) == (None, None, 587)


@pytest.mark.parametrize(
    ("kind", "changes", "sentence"),
    [
        (RelayKind.SES, {"region": "Europe"}, "$.region"),
        (RelayKind.SES, {"access_key_id": "short"}, "$.access_key_id"),
        (RelayKind.SES, {"secret_access_key": 7}, "a secret must be printable ASCII text and not empty"),
        (RelayKind.SES, {"secret_access_key": ""}, "a secret must be printable ASCII text and not empty"),
        (RelayKind.SES, {"secret_access_key": "ä"}, "a secret must be printable ASCII text and not empty"),
        (RelayKind.SES, {"colour": 1}, "unknown field `colour`"),
        (RelayKind.SES, {"configuration_set": "a b"}, "$.configuration_set"),
        (RelayKind.SES, {"parallel": 0}, "$.parallel"),
        (RelayKind.SES, {"endpoint": "http://10.0.0.1"}, "must begin with https://"),
        (RelayKind.SES, {"endpoint": "http://localhost"}, "must begin with https://"),
        (RelayKind.SES, {"endpoint": "ftp://127.0.0.1"}, "must begin with https://"),
        (RelayKind.SES, {"endpoint": "https://u:p@example.com"}, "must be scheme, host and perhaps port"),
        (RelayKind.SES, {"endpoint": "https://example.com/v2"}, "must be scheme, host and perhaps port"),
        (RelayKind.SES, {"endpoint": "https://example.com:x"}, "must be scheme, host and perhaps port"),
        (RelayKind.SES, {"endpoint": "https://[::1"}, "must be scheme, host and perhaps port"),
        (RelayKind.SENDGRID, {"api_key": "a\nb"}, "a secret must be printable ASCII text and not empty"),
        (RelayKind.SENDGRID, {"subuser": "a\r\nX: y"}, "$.subuser"),
        (RelayKind.SENDGRID, {"ip_pool": "x"}, "$.ip_pool"),
        (RelayKind.MAILGUN, {"domain": "../x"}, "$.domain"),
        (RelayKind.MAILGUN, {"domain": None}, "$.domain"),
        (RelayKind.SMTP, {"port": 70000}, "$.port"),
        (RelayKind.SMTP, {"host": "a b"}, "$.host"),
        (RelayKind.SMTP, {"password": None}, "need both user and password, or neither"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(
    given: dict[RelayKind, dict[str, object]], kind: RelayKind, changes: dict[str, object], sentence: str
) -> None:
    with pytest.raises(SettingWrong) as refused:
        seal_settings(kind, {**given.get(kind, SMTP), **changes}, "west", KEY.seal)
    assert sentence in str(refused.value)
    assert "“west”" in str(refused.value)


def test_a_test_on_this_machine_may_do_without_tls(given: dict[RelayKind, dict[str, object]]) -> None:
    for endpoint in ("http://127.0.0.1:4566", "http://[::1]:4566", "https://ses.example.com:8443/"):
        parse_settings(RelayKind.SES, {**given[RelayKind.SES], "endpoint": endpoint}, "west")
