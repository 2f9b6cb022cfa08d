"""Delivery: from a recipient's domain to an answer of the server that is responsible for it.

Finds the route (MX) and the encryption that it needs (MTA-STS, DANE), chooses the source, paces, keeps connections, holds the SMTP
conversation, and judges what the other side said. Writes the tables `sites`, `domain_routes`, `site_rests`, `paces`, `sources`, `pools`,
`pool_sources`, `streams`, `sts_policies`, `tls_reported_policies` and `tls_results`. Never touches the queue or the ledger: it returns
outcomes, and a flow settles them.
"""

from posthouse.delivery.exchange import Exchange, ExchangeLimits
from posthouse.delivery.job import Answer, Job
from posthouse.delivery.limits import LimitBook, SiteLimits
from posthouse.delivery.paths import Blocked, LaneKind, Paths, rests
from posthouse.delivery.policy_book import PolicyBook, PolicySettings
from posthouse.delivery.relay import Relay, parse_relay
from posthouse.delivery.resolver import DnsResolver
from posthouse.delivery.rest import resting_sites, start_rest
from posthouse.delivery.route import Route, RouteBook
from posthouse.delivery.source_check import check_source
from posthouse.delivery.sources import (
    DEFAULT_POOL,
    Source,
    SourceState,
    add_pool,
    add_source,
    find_source,
    list_pools,
    list_sources,
    path_overview,
    pool_of,
    put_in_pool,
    set_source_state,
    set_stream,
    take_from_pool,
)
from posthouse.delivery.tls_policy import TlsNeed, TlsPolicy
from posthouse.delivery.tls_results import results_of_day
from posthouse.delivery.verdict import expired, judge

__all__ = [
    "DEFAULT_POOL",
    "Answer",
    "Blocked",
    "DnsResolver",
    "Exchange",
    "ExchangeLimits",
    "Job",
    "LaneKind",
    "LimitBook",
    "Paths",
    "PolicyBook",
    "PolicySettings",
    "Relay",
    "Route",
    "RouteBook",
    "SiteLimits",
    "Source",
    "SourceState",
    "TlsNeed",
    "TlsPolicy",
    "add_pool",
    "add_source",
    "check_source",
    "expired",
    "find_source",
    "judge",
    "list_pools",
    "list_sources",
    "parse_relay",
    "path_overview",
    "pool_of",
    "put_in_pool",
    "resting_sites",
    "rests",
    "results_of_day",
    "set_source_state",
    "set_stream",
    "start_rest",
    "take_from_pool",
]
