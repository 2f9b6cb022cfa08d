"""Delivery: from a recipient's domain to an answer of the server that is responsible for it.

Finds the route (MX) and the encryption that it needs (MTA-STS, DANE), keeps connections, holds the SMTP conversation, and judges what the
other side said. Writes the tables `sites`, `domain_routes`, `site_rests`, `sts_policies`, `tls_reported_policies` and `tls_results`.
Never touches the queue or the ledger: it returns outcomes, and a flow settles them.
"""

from posthouse.delivery.exchange import Exchange, ExchangeLimits
from posthouse.delivery.job import Answer, Job
from posthouse.delivery.policy_book import PolicyBook, PolicySettings
from posthouse.delivery.relay import Relay, parse_relay
from posthouse.delivery.resolver import DnsResolver
from posthouse.delivery.rest import resting_sites, start_rest
from posthouse.delivery.route import Route, RouteBook
from posthouse.delivery.tls_policy import TlsNeed, TlsPolicy
from posthouse.delivery.tls_results import results_of_day
from posthouse.delivery.verdict import expired, judge

__all__ = [
    "Answer",
    "DnsResolver",
    "Exchange",
    "ExchangeLimits",
    "Job",
    "PolicyBook",
    "PolicySettings",
    "Relay",
    "Route",
    "RouteBook",
    "TlsNeed",
    "TlsPolicy",
    "expired",
    "judge",
    "parse_relay",
    "resting_sites",
    "results_of_day",
    "start_rest",
]
