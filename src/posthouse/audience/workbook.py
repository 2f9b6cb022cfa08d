"""Workbooks: the rows of an XLSX or XLS file, read by a child process that may neither eat all memory nor take us down with it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import msgspec

from posthouse.model.errors import ImportWrong

WORKBOOK_MAGIC = (b"PK\x03\x04", b"\xd0\xcf\x11\xe0")

_LARGEST_UNPACKED = 1024 * 1024 * 1024
_CHILD = "posthouse.audience.workbook_child"
# The exit code by which the child says that the file is no workbook; any other but 0 means that it died.
_UNREADABLE = 3


def read_workbook(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Row number (from 1) and cells of the first sheet, empty rows left out. Raises ImportWrong with one sentence."""
    _check_size(path)
    decode = msgspec.json.Decoder(tuple[int, list[str]]).decode
    command = [sys.executable, "-m", _CHILD, str(path)]
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        try:
            assert child.stdout is not None
            for line in child.stdout:
                if not line.endswith(b"\n"):
                    break
                yield decode(line)
            code = child.wait()
        finally:
            child.kill()
    if code == _UNREADABLE:
        raise _no_workbook(path)
    if code:
        raise ImportWrong(
            f"{path} has too many cells, or cells too far apart, to be read as a workbook; save its sheet as CSV."
        )


def _check_size(path: Path) -> None:
    """Refuse what unpacks to more than a sheet of a million rows would."""
    if not zipfile.is_zipfile(path):
        return
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise _no_workbook(path) from error
    if unpacked > _LARGEST_UNPACKED:
        raise ImportWrong(f"{path} unpacks to more than 1 GB; save its sheet as CSV.")


def _no_workbook(path: Path) -> ImportWrong:
    return ImportWrong(f"{path} is not a workbook that can be read; save it as CSV or XLSX.")
