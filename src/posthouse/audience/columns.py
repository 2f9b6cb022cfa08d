"""Columns of a file become merge fields; one of them is the address."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Mapping, Sequence
from importlib import resources

from msgspec import Struct

from posthouse.mail.address import parse_address
from posthouse.model.errors import AddressWrong, ImportWrong

MOST_FIELDS = 100
_WORDS: Mapping[str, list[str]] = tomllib.loads(
    resources.files("posthouse.audience").joinpath("columns.toml").read_text(encoding="utf-8")
)
_EMAIL_NAMES = {name: rank for rank, name in enumerate(_WORDS["email"])}
_CONSENT_NAMES = frozenset(_WORDS["consent"])
_DEPARTURE_NAMES = frozenset(_WORDS["departure"])
NO_WORDS = frozenset(_WORDS["no"])
STILL_HERE_WORDS = frozenset(_WORDS["still_here"])


class Columns(Struct, frozen=True):
    """Which column is what. email: its position; fields: (merge field, position); names: as in the file.

    consent and departure: positions of columns that say whether the person wants mail, and whether they left.
    """

    email: int
    fields: tuple[tuple[str, int], ...]
    consent: tuple[int, ...]
    departure: tuple[int, ...]
    names: tuple[str, ...]

    def says_no(self, row: Sequence[str]) -> bool:
        """Whether a row says that its person does not want the mail."""
        return any(field_name(row[position]) in NO_WORDS for position in self.consent) or any(
            field_name(row[position]) not in STILL_HERE_WORDS for position in self.departure
        )


def field_name(column: str) -> str:
    """The merge field of a column: `Prénom du client` becomes `prenom_du_client`."""
    folded = unicodedata.normalize("NFKD", column.strip().replace("ß", "ss").replace("ł", "l").replace("Ł", "L"))
    plain = "".join(sign for sign in folded if not unicodedata.combining(sign))
    return re.sub(r"\W+", "_", plain.casefold()).strip("_")


def is_header(row: Sequence[str]) -> bool:
    """Whether a first row names columns: a row that holds an address is data already."""
    return not any(_is_address(cell) for cell in row)


def names_the_address(row: Sequence[str], mapping: Mapping[str, str]) -> bool:
    """Whether a row has a cell that is called like an address column, or like a column that the user maps."""
    return any(field_name(cell) in _EMAIL_NAMES or cell.strip() in mapping for cell in row)


def read_columns(header: Sequence[str] | None, sample: Sequence[Sequence[str]], mapping: Mapping[str, str]) -> Columns:
    """Understand the columns. header: the first row, or None where the file has none; sample: some rows; mapping: column → field.

    Raises ImportWrong with the columns seen and the --map to use.
    """
    width = max([len(header or ()), *(len(row) for row in sample)], default=0)
    names = list(header or ()) + [f"column {n + 1}" for n in range(len(header or ()), width)]
    if width > MOST_FIELDS:
        raise ImportWrong(f"The file has {width} columns; at most {MOST_FIELDS} can be kept.")
    for column in mapping:
        if column not in names:
            raise ImportWrong(f"--map names a column “{column}”, which the file has not; it has {_listed(names)}.")
    fields = [mapping.get(name) or field_name(name) or f"column_{n + 1}" for n, name in enumerate(names)]
    email = _email_column(fields, names, sample, mapping)
    kept = _distinct([(field, position) for position, field in enumerate(fields) if position != email])
    # What a column means is in the file's own name for it, whatever field it is mapped to.
    known = [(field_name(name), position) for position, name in enumerate(names) if position != email]
    return Columns(
        email,
        tuple(kept),
        tuple(position for name, position in known if name in _CONSENT_NAMES),
        tuple(position for name, position in known if name in _DEPARTURE_NAMES),
        tuple(names),
    )


def _distinct(fields: Sequence[tuple[str, int]]) -> list[tuple[str, int]]:
    """The same fields and positions; a name that is taken gets the next free number: name, name_2, name_3."""
    names = {"email", *(field for field, _ in fields)}
    taken = {"email"}
    kept: list[tuple[str, int]] = []
    for field, position in fields:
        name, n = field, 1
        while name in taken or (n > 1 and name in names):
            n += 1
            name = f"{field}_{n}"
        taken.add(name)
        kept.append((name, position))
    return kept


def _email_column(
    fields: Sequence[str], names: Sequence[str], sample: Sequence[Sequence[str]], mapping: Mapping[str, str]
) -> int:
    mapped = [position for position, name in enumerate(names) if mapping.get(name) == "email"]
    if len(mapped) == 1:
        return mapped[0]
    if len(mapped) > 1:
        raise ImportWrong("--map makes two columns the email address; only one can be.")
    named = sorted((rank, n) for n, field in enumerate(fields) if (rank := _EMAIL_NAMES.get(field)) is not None)
    if named and (len(named) == 1 or named[0][0] < named[1][0]):
        return named[0][1]
    scores = [sum(1 for row in sample if n < len(row) and _is_address(row[n])) for n in range(len(names))]
    best = max(scores, default=0)
    candidates = [n for n, score in enumerate(scores) if score == best]
    if best == 0 or len(candidates) > 1:
        which = "no column with email addresses" if best == 0 else "several columns with email addresses"
        raise ImportWrong(
            f'The file has {which}; its columns are {_listed(names)}. Say which one: --map "{names[0] if names else "E-Mail"}=email".'
        )
    return candidates[0]


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(f"“{name[:40]}”" for name in names[:12])
    return f"{shown} and {len(names) - 12} more" if len(names) > 12 else shown


def _is_address(cell: str) -> bool:
    if "@" not in cell or len(cell) > 320:
        return False
    try:
        parse_address(cell)
    except AddressWrong:
        return False
    return True
