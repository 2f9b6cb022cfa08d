"""The journal and the machine: one owner, full disks, old segments."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from posthouse.model.errors import DataDirectoryWrong
from posthouse.model.outcomes import Outcome, Status
from posthouse.queue import Journal, JournalFull

OUTCOME = Outcome(1, 1, 1, Status.DELIVERED, 0, 1, 1, 1, 250, "2.0.0", "ok")
SEGMENT = 1024

# A process of its own with a limit on its files, which is a full disk to it.
FULL_DISK = """
import resource, sys
from pathlib import Path
from posthouse.model.outcomes import Outcome, Status
from posthouse.queue import Journal, JournalFull

outcome = Outcome(1, 1, 1, Status.DELIVERED, 0, 1, 1, 1, 250, "2.0.0", "x" * 100)
journal = Journal(Path(sys.argv[1]), segment_bytes=4096)
resource.setrlimit(resource.RLIMIT_FSIZE, (1024, resource.RLIM_INFINITY))
noted = 0
try:
    while True:
        noted = journal.note(outcome)
        if noted == 40:
            print("full" if journal.is_full else "room")
except JournalFull as error:
    print(error)
print(noted)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print("full" if journal.is_full else "room", journal.note(outcome) == noted + 1)
journal.sync()
print(len(list(journal.replay(0))) == noted + 1)
journal.close()
"""


def test_one_process_has_the_journal(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal", segment_bytes=SEGMENT)
    with pytest.raises(DataDirectoryWrong, match="Another sender writes the journal in"):
        Journal(tmp_path / "journal", segment_bytes=SEGMENT)
    journal.close()
    Journal(tmp_path / "journal", segment_bytes=SEGMENT).close()


def test_what_is_in_flight_still_fits_when_the_disk_is_full(tmp_path: Path) -> None:
    """The reserve segment takes it; `is_full` stops the claiming; with room again, all goes on by itself."""
    done = subprocess.run([sys.executable, "-c", FULL_DISK, str(tmp_path)], capture_output=True, text=True, check=True)
    state, sentence, noted, after, whole = done.stdout.splitlines()
    assert state == "full"
    assert sentence == "The disk of the outcome journal is full: make room, and sending goes on by itself."
    assert int(noted) > 40, "more than one segment holds"
    assert after == "room True"
    assert whole == "True"


def test_no_room_to_begin_is_said_at_once(tmp_path: Path) -> None:
    code = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (64, resource.RLIM_INFINITY))\n" + FULL_DISK
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.stderr.rstrip().endswith(str(JournalFull()))
    Journal(tmp_path, segment_bytes=SEGMENT).close()


def test_old_segments_go_when_they_are_settled(tmp_path: Path) -> None:
    journal = Journal(tmp_path, segment_bytes=SEGMENT)
    for _ in range(60):
        journal.note(OUTCOME)
    segments = sorted(tmp_path.glob("*.journal"))
    assert len(segments) > 3
    for number, segment in enumerate(segments):
        os.utime(segment, (number, number))
    third = int(segments[2].stem)
    assert journal.prune(third - 2, older_than=100.0) == 1, "the second is not wholly settled"
    assert journal.prune(third - 1, older_than=1.0) == 0, "the second is too young"
    assert journal.prune(third - 1, older_than=1.5) == 1
    assert [number for number, _ in journal.replay(0)] == list(range(third, 61))
    assert journal.prune(60, older_than=1e12) == len(segments) - 3, "the current one stays"
    journal.close()


def test_a_reserve_is_not_left_behind(tmp_path: Path) -> None:
    Journal(tmp_path, segment_bytes=SEGMENT).close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["00000000000000000001.journal", "lock"]
