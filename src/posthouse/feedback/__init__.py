"""Feedback: what the world says back, made into news. Bounces, complaints, opens, clicks and unsubscribes come in raw and leave as values.

Believes only what bears one of our tokens: a forged or foreign report changes nothing (BNC-2, answers 22). Never writes to the database
and never talks to the network; `flows.listen` records what was heard.
"""

from posthouse.feedback.heard import Heard, NotHeard, WhyNot
from posthouse.feedback.returned_mail import hear_mail
from posthouse.feedback.visitors import VisitorClass, Visitors
from posthouse.feedback.visits import Visit, hear_click, hear_open, hear_personal_click, hear_unsubscribe, unsubscriber

__all__ = [
    "Heard",
    "NotHeard",
    "Visit",
    "VisitorClass",
    "Visitors",
    "WhyNot",
    "hear_click",
    "hear_mail",
    "hear_open",
    "hear_personal_click",
    "hear_unsubscribe",
    "unsubscriber",
]
