"""The queue: everything that must be sent is a row here, with its lane, the time it falls due and the reason that it waits.

Writes the tables `queue`, `lanes` and `settle_marks`, and the outcome journal on disk. Never talks to the network, never decides what
a reply means.
"""

from posthouse.queue.claim import Claimed, DueLane, LaneRoom, NextWork, any_claimed, claim, due_lanes, next_work
from posthouse.queue.hold import (
    fall_due,
    lane_overview,
    recall,
    release_held,
    waiting_counts,
    waiting_for,
    waiting_message,
)
from posthouse.queue.journal import Journal, JournalFull
from posthouse.queue.put import chunk_domains, drop_empty_ranges, next_message_ids, put_chunk
from posthouse.queue.settle import Untried, mark_settled, put_back, settle, settled_mark, unpin

__all__ = [
    "Claimed",
    "DueLane",
    "Journal",
    "JournalFull",
    "LaneRoom",
    "NextWork",
    "Untried",
    "any_claimed",
    "chunk_domains",
    "claim",
    "drop_empty_ranges",
    "due_lanes",
    "fall_due",
    "lane_overview",
    "mark_settled",
    "next_message_ids",
    "next_work",
    "put_back",
    "put_chunk",
    "recall",
    "release_held",
    "settle",
    "settled_mark",
    "unpin",
    "waiting_counts",
    "waiting_for",
    "waiting_message",
]
