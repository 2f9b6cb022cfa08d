"""MTA-STS documents: the DNS record that announces a policy, and the policy itself (RFC 8461 §3). Pure functions on hostile text."""

from __future__ import annotations

import re
from collections.abc import Sequence

from msgspec import Struct

from posthouse.model.closed_list import ClosedList

# RFC 8461 §3.2.
_LONGEST_AGE = 31_557_600
# More than anybody publishes, and few enough to compare with every mail exchanger.
_MOST_MX = 100
_RECORD = re.compile(r"v=STSv1\s*;")
_ID = re.compile(r"[A-Za-z0-9]{1,32}\Z")
_MX = re.compile(r"(?:\*\.)?(?:[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?\Z")


class StsMode(ClosedList):
    """What a domain asks for (RFC 8461 §5)."""

    ENFORCE = "enforce", "Mail goes only to the named servers, with a valid certificate."
    TESTING = "testing", "Mail goes as ever, and what the policy would have stopped is reported."
    NONE = "none", "The domain has no policy any more."


class StsPolicy(Struct, frozen=True):
    """A policy file. mx: host names in lower case, or "*." and a name; max_age: seconds."""

    mode: StsMode
    mx: tuple[str, ...]
    max_age: int

    @property
    def lines(self) -> tuple[str, ...]:
        """The policy as reports quote it (RFC 8460 §4.4)."""
        hosts = (f"mx: {host}" for host in self.mx)
        return ("version: STSv1", f"mode: {self.mode.value}", *hosts, f"max_age: {self.max_age}")


def policy_id(records: Sequence[str]) -> str | None:
    """The id in the TXT records of `_mta-sts.DOMAIN`; None unless exactly one of them is a valid announcement (RFC 8461 §3.1)."""
    announced = [text for text in records if _RECORD.match(text)]
    if len(announced) != 1:
        return None
    for field in announced[0].split(";")[1:]:
        name, _, value = field.partition("=")
        if name.strip() == "id":
            return value.strip() if _ID.match(value.strip()) else None
    return None


def parse_policy(body: bytes) -> StsPolicy | None:
    """The policy that a file says, or None where it is none (RFC 8461 §3.2): of a key that comes twice the first counts, except mx."""
    fields: dict[str, str] = {}
    mx: list[str] = []
    for line in re.split(r"\r?\n", body.decode("utf-8", "replace")):
        name, colon, value = line.partition(":")
        name, value = name.strip(), value.strip()
        if not colon:
            continue
        if name == "mx":
            mx.append(value.lower().rstrip("."))
        else:
            fields.setdefault(name, value)
    age = fields.get("max_age", "")
    if (
        fields.get("version") != "STSv1"
        or fields.get("mode") not in set(StsMode)
        or not re.fullmatch("[0-9]{1,10}", age)
    ):
        return None
    mode = StsMode(fields["mode"])
    if (
        int(age) > _LONGEST_AGE
        or len(mx) > _MOST_MX
        or not all(map(_MX.match, mx))
        or (not mx and mode is not StsMode.NONE)
    ):
        return None
    return StsPolicy(mode, tuple(dict.fromkeys(mx)), int(age))


def mx_matches(host: str, patterns: Sequence[str]) -> bool:
    """Whether a mail exchanger is one of those; "*." stands for exactly one label (RFC 8461 §4.1)."""
    name = host.lower().rstrip(".")
    _, dot, parent = name.partition(".")
    return name in patterns or (bool(dot) and f"*.{parent}" in patterns)
