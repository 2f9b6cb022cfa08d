"""An internet in a box: DNS, mailbox providers with manners, and people who open, click and complain.

Listens on loopback only, runs as a process of its own, and counts what it received without asking the sender. It must never share
a parser with `posthouse.mail`, lest a bug hide on both sides, and never open a connection that leaves the machine.
"""

from posthouse.sandbox.plan import People, Plan, PlanWrong, Ready, SandboxUnavailable
from posthouse.sandbox.process import Sandbox, start
from posthouse.sandbox.records import Record, RecordKind, read_records
from posthouse.sandbox.status import Status, read_status
from posthouse.sandbox.zones import ZoneRecord, publish

__all__ = [
    "People",
    "Plan",
    "PlanWrong",
    "Ready",
    "Record",
    "RecordKind",
    "Sandbox",
    "SandboxUnavailable",
    "Status",
    "ZoneRecord",
    "publish",
    "read_records",
    "read_status",
    "start",
]
