"""Reads the first sheet of a workbook and writes its rows as lines of JSON. Runs as a process of its own, see workbook.py.

Its reader lays a sheet out as one block of memory: a file of two kilobytes with one cell in the last corner asks for 512 GB.
"""

from __future__ import annotations

import resource
import sys

import msgspec
import python_calamine

UNREADABLE = 3
_MEMORY_BYTES = 3 * 1024 * 1024 * 1024


def main(path: str) -> int:
    """Write [row number, cells as text] of each row that is not empty. Returns the exit code."""
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    encode = msgspec.json.Encoder().encode
    out = sys.stdout.buffer
    try:
        sheet = python_calamine.CalamineWorkbook.from_path(path).get_sheet_by_index(0)
        for number, row in enumerate(sheet.iter_rows(), 1):
            cells = [_cell_text(cell) for cell in row]
            if any(cells):
                out.write(encode([number, cells]) + b"\n")
    except (python_calamine.CalamineError, OSError, IndexError):
        return UNREADABLE
    out.flush()
    return 0


def _cell_text(cell: object) -> str:
    """A cell as a person would type it: whole numbers without a point, times in ISO 8601."""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer():
        return str(int(cell))
    return "" if cell is None else str(cell)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
