"""Settings: declared once, told three ways, and a wrong one says its name, its value and what is allowed."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.model.errors import SettingWrong
from posthouse.settings import Settings, load_settings, setting_rows, settings_file

DEFAULTS = Settings()
OTHERS: dict[str, dict[str, Any]] = {
    "database": {"url": "postgresql://a:b@h/d", "bin_directory": "/opt/pg/bin"},
    "public": {"url": "http://m.example.com:8080", "listen": "0.0.0.0:443", "tls_certificate": "c", "tls_key": "k"},
    "inbound": {"listen": "[::]:25", "max_megabytes": 20},
    "sender": {
        "postal_address": 'Ann\n"1" Mail Lane \\ Köln',
        "ehlo_name": "mail.example.com",
        "bounce_subdomain": "b",
        "ed25519": True,
    },
    "dns": {"nameservers": ["127.0.0.1:5353", "[::1]:53"], "timeout_seconds": 2.5, "validating": True},
    "delivery": {
        "port": 2525,
        "relay": "smtps://u:p@h",
        "senders": 3,
        "connections_per_site": 4,
        "messages_per_connection": 5,
        "life_hours": 1.5,
        "in_flight_minutes": 60.0,
        "first_retry_minutes": 1.0,
        "longest_retry_minutes": 2.0,
        "connect_seconds": 3.0,
        "greeting_seconds": 4.0,
        "command_seconds": 5.0,
        "block_seconds": 6.0,
        "final_dot_seconds": 7.0,
        "allow_private_addresses": True,
        "require_tls": True,
        "messages_per_second": 7.5,
        "mta_sts": False,
        "mta_sts_port": 8443,
        "tls_reports": False,
    },
    "journal": {"keep_days": 1, "segment_megabytes": 2},
    "log": {"level": "debug", "mask_addresses": False},
}
CHANGED = msgspec.convert(OTHERS, Settings)


def load(text: str, tmp_path: Path, **environment: str) -> Settings:
    file = tmp_path / "posthouse.toml"
    file.write_text(text, encoding="utf-8")
    return load_settings(file, environment)


def test_every_setting_has_a_sentence_and_a_default() -> None:
    rows = setting_rows(DEFAULTS)
    assert len(rows) == len({name for name, _, _ in rows}) == sum(len(section) for section in OTHERS.values())
    for name, value, sentence in rows:
        assert sentence.endswith("."), name
        assert value is not None, name
        section, field = name.split(".")
        assert OTHERS[section][field] != value, "the other values of this test differ from the defaults"


def test_the_file_of_the_defaults_changes_nothing_and_shows_all(tmp_path: Path) -> None:
    text = settings_file()
    assert tomllib.loads(text) == {name: {} for name in OTHERS}
    assert load(text, tmp_path) == DEFAULTS
    shown = "\n".join(line.removeprefix("# ") if " = " in line else line for line in text.splitlines())
    assert load(shown, tmp_path) == DEFAULTS
    for name, _, sentence in setting_rows(DEFAULTS):
        assert f"# {sentence}\n# {name.split('.')[1]} = " in text


def test_a_written_file_reads_back_as_the_same_settings(tmp_path: Path) -> None:
    assert load(settings_file(CHANGED), tmp_path) == CHANGED


@given(
    postal=st.text(st.characters(exclude_categories=["Cs"]), max_size=60),
    names=st.lists(st.just("127.0.0.1"), max_size=3),
)
def test_any_text_survives_the_file(postal: str, names: list[str]) -> None:
    settings = msgspec.convert({"sender": {"postal_address": postal}, "dns": {"nameservers": names}}, Settings)
    read = tomllib.loads(settings_file(settings))
    assert read["sender"].get("postal_address", "") == postal
    assert read["dns"].get("nameservers", []) == names


def test_the_environment_comes_before_the_file(tmp_path: Path) -> None:
    environment = {
        f"POSTHOUSE_{name.replace('.', '_').upper()}": ",".join(value) if isinstance(value, list) else str(value)
        for name, value, _ in setting_rows(CHANGED)
    }
    assert load("[delivery]\nport = 9\n", tmp_path, **environment) == CHANGED
    assert load_settings(None, {"HOME": "/", "POSTHOUSE_DATA": "x", "POSTHOUSE_SECRET_KEY_FILE": "y"}) == DEFAULTS
    assert load_settings(tmp_path / "missing.toml", {}) == DEFAULTS


@pytest.mark.parametrize(
    ("name", "value", "allowed"),
    [
        ("public.url", "example.com", "https"),
        ("public.url", "https://example.com/path", "https"),
        ("public.listen", "8026", "port"),
        ("inbound.listen", "127.0.0.1", "port"),
        ("inbound.max_megabytes", 0, ">= 1"),
        ("sender.postal_address", "x" * 301, "<= 300"),
        ("sender.ehlo_name", "not a name", "EHLO"),
        ("sender.bounce_subdomain", "Bounces", "Return paths"),
        ("dns.nameservers", ["dns.example.com"], "IP addresses"),
        ("dns.timeout_seconds", 0, "> 0"),
        ("delivery.port", 65536, "<= 65535"),
        ("delivery.port", "smtp", "int"),
        ("delivery.relay", "mail.example.com", "smtp://user:password@host:587"),
        ("delivery.senders", -1, ">= 0"),
        ("delivery.life_hours", 0, "> 0"),
        ("journal.segment_megabytes", 2000, "<= 1024"),
        ("log.level", "loud", "debug, info, warning or error"),
        ("log.mask_addresses", "maybe", "bool"),
    ],
)
def test_a_wrong_value_says_its_name_itself_and_what_is_allowed(
    tmp_path: Path, name: str, value: Any, allowed: str
) -> None:
    section, field = name.split(".")
    with pytest.raises(SettingWrong) as told:
        load(f"[{section}]\n{field} = {msgspec.json.encode(value).decode()}\n", tmp_path)
    sentence = str(told.value)
    assert sentence.startswith(f"{name} = {value!r} is not allowed: ")
    assert allowed in sentence
    text = ",".join(value) if isinstance(value, list) else str(value)
    with pytest.raises(SettingWrong, match=name):
        load("", tmp_path, **{f"POSTHOUSE_{section}_{field}".upper(): text})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[delivery\n", "is not valid TOML"),
        ("[delivry]\n", r"has a section \[delivry\], which there is not; there are database, public"),
        ("delivery = 5\n", r"\[delivery\] must be a table of settings, not 5"),
        ("[delivery]\nprot = 25\n", r"sets delivery\.prot, which there is not; \[delivery\] has port, relay"),
        (
            "[delivery]\nin_flight_minutes = 20\n",
            "must be longer than one SMTP transaction may take, which is 28.0 minutes",
        ),
        ('[public]\ntls_key = "k"\n', "go together"),
    ],
)
def test_a_wrong_file_says_what_is_wrong(tmp_path: Path, text: str, sentence: str) -> None:
    with pytest.raises(SettingWrong, match=sentence):
        load(text, tmp_path)


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "posthouse.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(SettingWrong, match="is not valid TOML"):
        load_settings(file, {})


def test_an_unknown_variable_is_refused() -> None:
    with pytest.raises(SettingWrong, match="POSTHOUSE_DELIVERY_PROT, which is no setting"):
        load_settings(None, {"POSTHOUSE_DELIVERY_PROT": "25"})
