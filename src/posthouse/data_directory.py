"""The data directory of one installation: what lies where."""

from __future__ import annotations

import os
from pathlib import Path

from posthouse.model.errors import DataDirectoryWrong
from posthouse.settings import settings_file

DEFAULT_DIRECTORY = "posthouse-data"
_MARK = "posthouse.toml"


class DataDirectory:
    """Names of files in a data directory."""

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @classmethod
    def of(cls, given: Path | None) -> DataDirectory:
        """The directory given on the command line, else POSTHOUSE_DATA, else ./posthouse-data."""
        return cls(given or Path(os.environ.get("POSTHOUSE_DATA", DEFAULT_DIRECTORY)))

    @property
    def settings_file(self) -> Path:
        """The commented TOML file."""
        return self.path / _MARK

    @property
    def key_file(self) -> Path:
        """The master key, unless POSTHOUSE_SECRET_KEY_FILE names another place."""
        named = os.environ.get("POSTHOUSE_SECRET_KEY_FILE")
        return Path(named) if named else self.path / "posthouse.key"

    @property
    def reply_rules(self) -> Path:
        """The operator's own reply rules, if any."""
        return self.path / "replies.toml"

    @property
    def site_limits(self) -> Path:
        """The operator's own limits of mailbox providers, if any."""
        return self.path / "site_limits.toml"

    @property
    def tls_rules(self) -> Path:
        """The operator's own rules about encryption, if any."""
        return self.path / "tls.toml"

    @property
    def up_lock(self) -> Path:
        """Locked by the one `up` that runs this directory."""
        return self.path / "locks" / "up"

    def journal(self, slot: int) -> Path:
        """The outcome journal of a sender."""
        return self.path / "journal" / f"sender-{slot}"

    def journals(self) -> list[tuple[int, Path]]:
        """(slot, folder) of every journal that there is."""
        folders = (self.path / "journal").glob("sender-*")
        return sorted((int(folder.name.removeprefix("sender-")), folder) for folder in folders)

    @property
    def clock_file(self) -> Path:
        """The shared offset of a rehearsal's clock."""
        return self.path / "sandbox" / "clock"

    @property
    def sandbox(self) -> Path:
        """What the sandbox internet keeps."""
        return self.path / "sandbox"

    @property
    def exists(self) -> bool:
        """Whether this directory was initialised."""
        return self.settings_file.is_file()

    def create(self) -> bool:
        """Make the directory and its settings file where they are missing; returns whether anything was made.

        Raises DataDirectoryWrong when the place is not a directory, cannot be written, or holds something else.
        """
        if self.exists:
            return False
        try:
            self.path.mkdir(mode=0o755, parents=True, exist_ok=True)
            if any(entry.name != "locks" for entry in self.path.iterdir()):
                raise DataDirectoryWrong(f"{self.path} is not empty and has no {_MARK}: choose another with --data.")
            (self.path / "locks").mkdir(mode=0o700, exist_ok=True)
            self.settings_file.write_text(settings_file(), encoding="utf-8")
        except OSError as error:
            raise DataDirectoryWrong(f"{self.path} cannot be used as data directory: {error.strerror}.") from error
        return True

    def require(self) -> None:
        """Raise DataDirectoryWrong unless the directory was initialised."""
        if not self.exists:
            raise DataDirectoryWrong(
                f"{self.path} is not a data directory of Posthouse yet: run `posthouse init --data {self.path}` first."
            )
