"""Delivery: from a recipient's domain to an answer of the server that is responsible for it.

Finds the route (MX), keeps connections, holds the SMTP conversation, and judges what the other side said. Writes the tables `sites`,
`domain_routes` and `site_rests`. Never touches the queue or the ledger: it returns outcomes, and a flow settles them.
"""

from posthouse.delivery.exchange import Exchange, ExchangeLimits
from posthouse.delivery.job import Answer, Job
from posthouse.delivery.relay import Relay, parse_relay
from posthouse.delivery.resolver import DnsResolver
from posthouse.delivery.rest import resting_sites, start_rest
from posthouse.delivery.route import Route, RouteBook
from posthouse.delivery.verdict import expired, judge

__all__ = [
    "Answer",
    "DnsResolver",
    "Exchange",
    "ExchangeLimits",
    "Job",
    "Relay",
    "Route",
    "RouteBook",
    "expired",
    "judge",
    "parse_relay",
    "resting_sites",
    "start_rest",
]
