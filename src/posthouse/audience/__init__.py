"""Audience: contacts, the lists that they are on, and how they came there.

Writes the tables `contacts`, `lists`, `memberships` and `imports`. Never sends anything, and never lifts a suppression: an import can
neither resubscribe anybody nor overwrite the consent that is on record (answers 24).
"""

from posthouse.audience.importing import ImportReport, import_contacts
from posthouse.audience.lists import (
    List,
    ListSize,
    contact_address,
    copy_list,
    count_recipients,
    ensure_list,
    find_list,
    list_lists,
    list_name,
    stream_fields,
    test_recipient,
    unsubscribe,
)
from posthouse.audience.staging import ImportProgress

__all__ = [
    "ImportProgress",
    "ImportReport",
    "List",
    "ListSize",
    "contact_address",
    "copy_list",
    "count_recipients",
    "ensure_list",
    "find_list",
    "import_contacts",
    "list_lists",
    "list_name",
    "stream_fields",
    "test_recipient",
    "unsubscribe",
]
