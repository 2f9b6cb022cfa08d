"""Reputation: whom we must not write to any more, and why.

Writes the table `suppressions`. A suppression is written in the transaction that records its cause (answers 14). It never
ends by itself: a person lifts it, with a reason.
"""

from posthouse.reputation.recent import RecentSuppressions
from posthouse.reputation.suppression import Cause, NewSuppression, SuppressionScope, lift, list_suppressed, suppress

__all__ = [
    "Cause",
    "NewSuppression",
    "RecentSuppressions",
    "SuppressionScope",
    "lift",
    "list_suppressed",
    "suppress",
]
