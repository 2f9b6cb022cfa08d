"""Relays: services that deliver for us, as sources beside our own addresses.

A client hands one composed message to Amazon SES, SendGrid or Mailgun over HTTP and says what became of it; a line is what an exchange
holds in the place of an SMTP session; health and choice say which source a message takes. A smarthost over SMTP has settings here and is
dialled like any server. Never moves a message that was refused for our reputation to another source (SMTP-22); never follows a redirect.
"""

from posthouse.delivery.relays.choice import Entry, Needs, NoSource, choose
from posthouse.delivery.relays.client import RelayClient, open_client
from posthouse.delivery.relays.health import Condition, Health, Tolerance, is_outage
from posthouse.delivery.relays.line import LineFeed, RelayLine, open_line
from posthouse.delivery.relays.quota import Quota
from posthouse.delivery.relays.rules import RelayRules
from posthouse.delivery.relays.settings import RelayKind, RelaySettings, open_settings, parse_settings, seal_settings

__all__ = [
    "Condition",
    "Entry",
    "Health",
    "LineFeed",
    "Needs",
    "NoSource",
    "Quota",
    "RelayClient",
    "RelayKind",
    "RelayLine",
    "RelayRules",
    "RelaySettings",
    "Tolerance",
    "choose",
    "is_outage",
    "open_client",
    "open_line",
    "open_settings",
    "parse_settings",
    "seal_settings",
]
