"""The ledger: append-only, one line for everything that happens to a recipient's copy.

Writes the table `ledger` and nothing else; never updates or deletes a line. Readers follow it with a cursor.
"""

from posthouse.ledger.events import campaign_lines, history, make_room, messages_to, record, record_late

__all__ = ["campaign_lines", "history", "make_room", "messages_to", "record", "record_late"]
