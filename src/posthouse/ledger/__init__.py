"""The ledger: append-only, one line for everything that happens to a recipient's copy.

Writes the table `ledger` and nothing else; never updates or deletes a line. Readers follow it with a cursor (`read_counts`).
"""

from posthouse.ledger.events import history, make_room, record, record_late

__all__ = ["history", "make_room", "record", "record_late"]
