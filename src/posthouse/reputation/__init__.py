"""Reputation: whom we must not write to any more, what providers slowed or stopped, and what needs a person.

Writes the tables `suppressions`, `refusals`, `brakes` and `attention`. A suppression is written in the transaction that records its
cause (answers 14). It never ends by itself: a person lifts it, with a reason. Brakes are on what we send and on our ways out, never on
a recipient: a reply about us suppresses nobody (BNC-5).
"""

from posthouse.reputation.attention import attention_done, list_attention, tell_person
from posthouse.reputation.brake_gate import BrakeGate, Traits, ceilings
from posthouse.reputation.brakes import (
    Brake,
    BrakeKind,
    BrakeSubject,
    Reached,
    Refusal,
    brakes_in_force,
    count_refusals,
    count_refused_days,
    draw_allowance,
    end_brake,
    forget_refusals,
    moment,
    set_brake,
)
from posthouse.reputation.recent import RecentSuppressions
from posthouse.reputation.suppression import Cause, NewSuppression, SuppressionScope, lift, list_suppressed, suppress

__all__ = [
    "Brake",
    "BrakeGate",
    "BrakeKind",
    "BrakeSubject",
    "Cause",
    "NewSuppression",
    "Reached",
    "RecentSuppressions",
    "Refusal",
    "SuppressionScope",
    "Traits",
    "attention_done",
    "brakes_in_force",
    "ceilings",
    "count_refusals",
    "count_refused_days",
    "draw_allowance",
    "end_brake",
    "forget_refusals",
    "lift",
    "list_attention",
    "list_suppressed",
    "moment",
    "set_brake",
    "suppress",
    "tell_person",
]
