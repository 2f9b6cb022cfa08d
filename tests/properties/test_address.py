"""Whatever is taken for an address is safe on the wire and in a header, and its own normal form."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from posthouse.mail.address import parse_address
from posthouse.model.errors import AddressWrong

LOCALS = st.text(st.sampled_from("aZ09!#$%&'*+/=?^_`{|}~-"), min_size=1, max_size=20)
LABELS = st.from_regex(r"[a-zA-Z0-9]([a-zA-Z0-9]{0,10}[a-zA-Z0-9])?", fullmatch=True)


@given(st.one_of(st.text(max_size=120), st.tuples(st.text(max_size=30), st.text(max_size=60)).map("@".join)))
@example("a\u2028b@example.com")
@example("a\u00adb@example.com")
@example("a\ud800@example.com")
def test_what_is_accepted_is_safe(typed: str) -> None:
    try:
        address = parse_address(typed)
    except AddressWrong:
        return
    assert parse_address(address.text) == address, "the normal form is its own"
    assert address.domain.isascii()
    assert address.domain == address.domain.lower()
    assert "." in address.domain
    assert len(address.local.encode()) <= 64
    assert len(address.domain) <= 253
    assert not any(sign in address.text for sign in '\r\n\t <>()[]\\,;:"\0')
    assert address.needs_smtputf8 is not address.local.isascii()


@given(locals_=st.lists(LOCALS, min_size=1, max_size=3), labels=st.lists(LABELS, min_size=1, max_size=3))
def test_ordinary_addresses_are_accepted(locals_: list[str], labels: list[str]) -> None:
    local = ".".join(locals_)
    typed = f"{local}@{'.'.join([*labels, 'example'])}"
    if len(local) > 64:
        with pytest.raises(AddressWrong):
            parse_address(typed)
    else:
        assert parse_address(typed).text == f"{local}@{typed.rpartition('@')[2].lower()}"
