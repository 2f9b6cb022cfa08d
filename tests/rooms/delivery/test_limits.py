"""The limits of mailbox providers: what is shipped, what an operator may change, and what a wrong file is told."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from posthouse.delivery import LimitBook, SiteLimits
from posthouse.model.errors import SettingWrong

DEFAULT = SiteLimits(10, 100, 100.0)

# Standards, section 9: mail exchanger → site, connections, messages per connection, whether TLS is a must.
SHIPPED = {
    "aspmx.l.google.com": ("google", 5, 50, True),
    "alt4.gmail-smtp-in.l.google.com.": ("google", 5, 50, True),
    "aspmx2.googlemail.com": ("google", 5, 50, True),
    "mta5.am0.yahoodns.net": ("yahoo", 10, 20, False),
    "outlook-com.olc.protection.outlook.com": ("outlook-consumer", 5, 50, False),
    "example-com.mail.protection.outlook.com": ("outlook-business", 5, 50, False),
    "example-com.a-v1.mx.microsoft": ("outlook-mx-microsoft", 5, 50, False),
    "mx01.mail.icloud.com": ("icloud", 10, 5, False),
    "mx1.comcast.net": ("comcast", 25, 1000, True),
    "eu-smtp-inbound-1.mimecast.com": ("mimecast", 10, 100, False),
    "smtp-in.orange.fr": ("orange", 2, 100, True),
    "mx00.gmx.net": ("gmx", 4, 20, True),
    "mx-ha02.web.de": ("gmx", 4, 20, True),
    "mx1.mail.yahoo.co.jp": ("yahoo-japan", 2, 20, False),
    "mx3.qq.com": ("qq", 4, 8, True),
    "163mx01.mxmail.netease.com": ("netease", 4, 7, False),
    "d1.ess.barracudanetworks.com": ("barracuda", 10, 15, True),
    "mx.netvigator.com": ("netvigator", 5, 10, True),
    "mx.kpnmail.nl": ("kpn", 10, 10, True),
}


@pytest.mark.parametrize(("host", "expected"), SHIPPED.items())
def test_the_shipped_table(host: str, expected: tuple[str, int, int, bool]) -> None:
    book = LimitBook.load(DEFAULT)
    site = book.site_of(host)
    assert site is not None
    limits = book.of(site, "default", "default", "broadcast")
    assert (site, limits.connections, limits.messages_per_connection, limits.tls_required) == expected


@pytest.mark.parametrize("host", ["mx.example.com", "notgoogle.com", "google.com.example.net", "com", ""])
def test_others_are_nobodys(host: str) -> None:
    assert LimitBook.load(DEFAULT).site_of(host) is None


def test_ten_a_second_for_yahoo_japan() -> None:
    assert LimitBook.load(DEFAULT).of("yahoo-japan", "p", "s", "broadcast").per_second == 10


def test_later_rows_win_value_by_value_where_they_fit(tmp_path: Path) -> None:
    own = tmp_path / "site_limits.toml"
    own.write_text(
        """
        [[site]]
        name = "corner-shop"
        mx = ["mx.corner.example"]
        messages_per_hour = 7200

        [[limit]]
        site = "google"
        pool = "receipts"
        connections = 20

        [[limit]]
        source = "mail7"
        messages_per_second = 1

        [[limit]]
        stream = "transactional"
        tls = "required"
        """
    )
    book = LimitBook.load(DEFAULT, own)
    assert book.site_of("a.mx.corner.example") == "corner-shop"
    assert book.of("corner-shop", "default", "default", "broadcast") == SiteLimits(10, 100, 2.0)
    assert book.of("google", "default", "default", "broadcast").connections == 5
    assert book.of("google", "receipts", "default", "broadcast") == SiteLimits(20, 50, 100.0, tls_required=True)
    assert book.of("elsewhere", "receipts", "mail7", "transactional") == SiteLimits(10, 100, 1.0, tls_required=True)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[[limit]\n", "are not TOML"),
        ("[limit]\nconnections = 1\n", r"write \[\[limit\]\] with two brackets"),
        ("[rules]\n", "has “rules”; only"),
        ("\n\n[[limit]]\nconnections = 0\n", r"line 3, \[\[limit\]\]: Expected `int` >= 1"),
        ('[[limit]]\nconnections = 1\n\n[[site]]\nname = "x"\n', r"line 4, \[\[site\]\]: .*mx"),
        ("[[limit]]\nconections = 1\n", r"line 1, \[\[limit\]\]: .*unknown field `conections`"),
    ],
)
def test_a_wrong_file_is_told_where_and_why(tmp_path: Path, text: str, sentence: str) -> None:
    own = tmp_path / "site_limits.toml"
    own.write_text(text)
    with pytest.raises(SettingWrong, match=sentence):
        LimitBook.load(DEFAULT, own)
    with pytest.raises(SettingWrong, match="cannot be read"):
        LimitBook.load(DEFAULT, tmp_path / "none.toml")


@given(
    connections=st.integers(1, 40),
    per_second=st.none() | st.floats(0.001, 1000),
    senders=st.integers(1, 16),
    site_id=st.integers(0, 1000),
)
def test_the_senders_of_a_node_share_a_limit_and_never_exceed_it(
    connections: int, per_second: float | None, senders: int, site_id: int
) -> None:
    """Answers 10: whole connections; a limit of one lives in one process."""
    whole = SiteLimits(connections, 100, per_second)
    shares = [whole.share(slot, senders, site_id) for slot in range(senders)]
    assert sum(share.connections for share in shares) == connections
    if per_second is not None:
        rates = [share.per_second or 0.0 for share in shares if share.connections]
        assert sum(rates) == pytest.approx(per_second)
