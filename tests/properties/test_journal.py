"""The journal keeps what was noted: through rotations, restarts, torn tails, damaged octets and lost files."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from posthouse.model.outcomes import BounceClass, Outcome, Reaction, Status
from posthouse.queue import Journal

SEGMENT = 1024
TEXT = st.text(max_size=80)
NUMBER = st.integers(0, 2**53)
OUTCOMES = st.builds(
    Outcome,
    workspace_id=st.integers(1, 9),
    message_id=NUMBER,
    attempt=st.integers(1, 99),
    status=st.sampled_from(list(Status)),
    at=NUMBER,
    campaign_id=NUMBER,
    contact_id=NUMBER,
    site_id=st.integers(0, 999),
    code=st.integers(0, 599),
    enhanced=st.none() | st.just("5.1.1"),
    text=TEXT,
    bounce_class=st.none() | st.sampled_from(list(BounceClass)),
    rule=st.none() | TEXT,
    remote=st.none() | TEXT,
    reaction=st.none() | st.sampled_from(list(Reaction)),
    next_try=st.none() | NUMBER,
)


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="journal-") as name:
        yield Path(name)


class JournalMachine(RuleBasedStateMachine):
    """A journal beside a plain list of what was noted in it."""

    @initialize()
    def begin(self) -> None:
        self.place = tempfile.TemporaryDirectory(prefix="journal-")
        self.directory = Path(self.place.name)
        self.noted: list[tuple[int, Outcome]] = []
        self.pruned = 0
        self.journal = Journal(self.directory, segment_bytes=SEGMENT)

    @rule(outcome=OUTCOMES)
    def note(self, outcome: Outcome) -> None:
        number = self.journal.note(outcome)
        assert number == (self.noted[-1][0] if self.noted else 0) + 1
        self.noted.append((number, outcome))

    @rule()
    def end_and_begin_again(self) -> None:
        self.journal.close()
        self.journal = Journal(self.directory, segment_bytes=SEGMENT)

    @rule()
    def be_killed_and_begin_again(self) -> None:
        """kill -9 closes the files and writes nothing more; what was noted is in the page cache."""
        self.journal._map.close()
        for descriptor in (self.journal._descriptor, self.journal._lock):
            os.close(descriptor)
        self.journal = Journal(self.directory, segment_bytes=SEGMENT)

    @precondition(lambda self: self.noted)
    @rule(data=st.data())
    def prune(self, data: st.DataObject) -> None:
        settled = data.draw(st.integers(0, len(self.noted)))
        self.journal.prune(settled, float("inf"))
        self.pruned = max(self.pruned, settled)

    @invariant()
    def everything_is_there(self) -> None:
        if not hasattr(self, "journal"):
            return
        assert self.journal.last_number == len(self.noted)
        for after in {self.pruned, len(self.noted) // 2, len(self.noted)}:
            if after >= self.pruned:
                assert list(self.journal.replay(after)) == self.noted[after:]

    def teardown(self) -> None:
        if hasattr(self, "journal"):
            self.journal.close()
            self.place.cleanup()


JournalMachine.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestJournal = JournalMachine.TestCase


def written(directory: Path, outcomes: list[Outcome]) -> list[Path]:
    journal = Journal(directory, segment_bytes=SEGMENT)
    for outcome in outcomes:
        journal.note(outcome)
    journal.close()
    return sorted(directory.glob("*.journal"))


@settings(max_examples=40, deadline=None)
@given(outcomes=st.lists(OUTCOMES, min_size=1, max_size=12), keep=st.integers(0, SEGMENT))
def test_a_torn_tail_costs_what_was_torn_off_and_no_more(outcomes: list[Outcome], keep: int) -> None:
    with folder() as directory:
        last = written(directory, outcomes)[-1]
        before = int(last.stem) - 1
        last.write_bytes(last.read_bytes()[:keep])
        journal = Journal(directory, segment_bytes=SEGMENT)
        found = list(journal.replay(0))
        assert found == list(enumerate(outcomes, 1))[: len(found)]
        assert before <= len(found) == journal.last_number
        # Numbers go on without a gap, and what is noted now is found.
        assert journal.note(outcomes[0]) == len(found) + 1
        assert list(journal.replay(len(found))) == [(len(found) + 1, outcomes[0])]
        journal.close()


@settings(max_examples=40, deadline=None)
@given(
    outcomes=st.lists(OUTCOMES, min_size=2, max_size=12), place=st.integers(0, SEGMENT - 1), flip=st.integers(1, 255)
)
def test_a_damaged_octet_never_makes_a_false_record(outcomes: list[Outcome], place: int, flip: int) -> None:
    with folder() as directory:
        first, *_ = segments = written(directory, outcomes)
        octets = bytearray(first.read_bytes())
        octets[place] ^= flip
        first.write_bytes(octets)
        journal = Journal(directory, segment_bytes=SEGMENT, settled=len(outcomes))
        found = dict(journal.replay(0))
        true = dict(enumerate(outcomes, 1))
        assert all(true.get(number) == outcome for number, outcome in found.items())
        # Whole segments after the damaged one are read all the same.
        if len(segments) > 1:
            assert {number for number in true if number >= int(segments[1].stem)} <= found.keys()
        journal.close()


@settings(max_examples=15, deadline=None)
@given(outcomes=st.lists(OUTCOMES, min_size=1, max_size=6), settled=st.integers(0, 50))
def test_a_journal_whose_files_were_lost_counts_on_above_what_the_database_has(
    outcomes: list[Outcome], settled: int
) -> None:
    with folder() as directory:
        journal = Journal(directory, segment_bytes=SEGMENT, settled=settled)
        assert [journal.note(outcome) for outcome in outcomes] == [settled + n for n in range(1, len(outcomes) + 1)]
        assert list(journal.replay(settled)) == list(enumerate(outcomes, settled + 1))
        journal.close()
