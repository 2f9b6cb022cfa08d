"""The operator's rule files, read again while the program runs. No inotify: a look at the file's stamp every second or so will do."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from posthouse.mail.replies import Rules
from posthouse.mail.rules import Rulebook, parse_rules, shipped_rules
from posthouse.model.closed_list import ClosedList
from posthouse.model.errors import SettingWrong

_Stamp = tuple[tuple[int, int, int] | None, ...]


class Look(ClosedList):
    """What a look at the files came to."""

    SAME = "same", "Nothing changed."
    RELOADED = "reloaded", "The files changed, and their rules are in force."
    REFUSED = "refused", "The files changed and are wrong; the rules that were in force stay."


class RuleFiles:
    """The rules in force: the operator's files in the order given, then the shipped ones. A file that does not exist has no rules."""

    def __init__(self, *paths: Path) -> None:
        """Raises SettingWrong with file, line, rule, key and reason."""
        self._paths = paths
        self._shipped = shipped_rules()
        self._stamp = self._changed_stamp = self._look_at()
        texts = self._read()
        self._digest = _digest(texts)
        self.rules = self._parsed(texts)
        self.trouble: str | None = None

    def look(self) -> Look:
        """Take changed files over once they have rested for one look, so that nothing half written is read. Never raises.

        After REFUSED, `trouble` is the reason; the same wrong files are refused once and not again.
        """
        stamp = self._look_at()
        if stamp == self._stamp:
            return Look.SAME
        if stamp != self._changed_stamp:
            self._changed_stamp = stamp
            return Look.SAME
        self._stamp = stamp
        try:
            texts = self._read()
            digest = _digest(texts)
            if digest == self._digest:
                self.trouble = None
                return Look.SAME
            self.rules = self._parsed(texts)
        except SettingWrong as wrong:
            self.trouble = str(wrong)
            return Look.REFUSED
        self._digest = digest
        self.trouble = None
        return Look.RELOADED

    def _look_at(self) -> _Stamp:
        stamps: list[tuple[int, int, int] | None] = []
        for path in self._paths:
            try:
                found = path.stat()
            except OSError:
                stamps.append(None)
            else:
                stamps.append((found.st_mtime_ns, found.st_size, found.st_ino))
        return tuple(stamps)

    def _read(self) -> list[tuple[Path, str]]:
        texts = []
        for path in self._paths:
            try:
                texts.append((path, path.read_text("utf-8")))
            except FileNotFoundError:
                continue
            except (OSError, UnicodeDecodeError) as error:
                raise SettingWrong(f"The rule file {path} cannot be read: {error}.") from error
        return texts

    def _parsed(self, texts: Sequence[tuple[Path, str]]) -> Rules:
        own = [parse_rules(str(path), text, self._shipped.providers) for path, text in texts]
        return Rules(Rulebook.joined([*own, self._shipped]))


def _digest(texts: Sequence[tuple[Path, str]]) -> bytes:
    digest = hashlib.sha256()
    for path, text in texts:
        digest.update(f"{path}\0{len(text)}\0{text}".encode())
    return digest.digest()
