"""Accounts: workspaces, the master key and what is sealed with it, sending domains and their DKIM keys.

Writes the tables `workspaces`, `master_key_fingerprints`, `sending_domains`, `dkim_keys` and `domain_checks`. A private key never
leaves this room but as a signer.
"""

from posthouse.accounts.domain_check import check_domain
from posthouse.accounts.domains import (
    DnsRecord,
    DomainCheck,
    SendingDomain,
    add_domain,
    domain_records,
    find_domain,
    list_domains,
    note_check,
    signers_of,
)
from posthouse.accounts.master_key import MasterKey, create_key, load_key, prove_key
from posthouse.accounts.workspaces import MAIN_WORKSPACE, REHEARSAL_WORKSPACE

__all__ = [
    "MAIN_WORKSPACE",
    "REHEARSAL_WORKSPACE",
    "DnsRecord",
    "DomainCheck",
    "MasterKey",
    "SendingDomain",
    "add_domain",
    "check_domain",
    "create_key",
    "domain_records",
    "find_domain",
    "list_domains",
    "load_key",
    "note_check",
    "prove_key",
    "signers_of",
]
