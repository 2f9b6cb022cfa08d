"""What Posthouse refuses, as sentences.

PosthouseError
├── SettingWrong          a setting has a value that is not allowed
├── DataDirectoryWrong    the data directory cannot be used as it is
├── DatabaseUnavailable   PostgreSQL cannot be started or reached
├── KeyWrong              the master key is missing or does not fit the database
├── Refused               a command was understood and is refused; the text says why and how to mend it
├── TemplateWrong         a template cannot be compiled or breaks a rule of the sandbox
├── ImportWrong           a contacts file cannot be read
├── AddressWrong          an email address is not one
└── TokenWrong            a link or bounce token is not ours
"""

from __future__ import annotations


class PosthouseError(Exception):
    """Something went wrong that one sentence can explain."""

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or (self.__doc__ or "").strip())


class SettingWrong(PosthouseError):
    """A setting has a value that is not allowed."""


class DataDirectoryWrong(PosthouseError):
    """The data directory cannot be used as it is."""


class DatabaseUnavailable(PosthouseError):
    """PostgreSQL cannot be started or reached."""


class KeyWrong(PosthouseError):
    """The master key is missing or does not fit this database."""


class Refused(PosthouseError):
    """The command is refused."""


class TemplateWrong(PosthouseError):
    """The template cannot be used."""


class ImportWrong(PosthouseError):
    """The contacts file cannot be read."""


class AddressWrong(PosthouseError):
    """This is not an email address."""


class TokenWrong(PosthouseError):
    """This token was not made here."""
