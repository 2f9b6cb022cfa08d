-- name: key_fingerprints
-- Which master keys this database was used with.
select key_id, fingerprint from master_key_fingerprints;

-- name: note_fingerprint
-- Remember a master key by its fingerprint.
insert into master_key_fingerprints (key_id, fingerprint) values ($1, $2) on conflict do nothing;

-- name: add_domain
-- Register a sending domain.
insert into sending_domains (workspace_id, domain, created_at) values ($1, $2, $3) on conflict do nothing;

-- name: add_key
-- Keep a DKIM key, sealed.
insert into dkim_keys (workspace_id, domain, selector, algorithm, dns_record, sealed_private_key, created_at)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict do nothing;

-- name: find_domain
-- A sending domain by name.
select domain, created_at, verified_at from sending_domains where workspace_id = $1 and domain = $2;

-- name: list_domains
-- All sending domains of a workspace.
select domain, created_at, verified_at from sending_domains where workspace_id = $1 order by domain;

-- name: keys_of_domain
-- The DKIM keys of a domain, RSA first.
select selector, algorithm, dns_record, sealed_private_key
from dkim_keys
where workspace_id = $1 and domain = $2
order by algorithm desc, selector;

-- name: note_check
-- Keep what a check of a domain's records found.
insert into domain_checks (workspace_id, domain, at, passed, forced, findings) values ($1, $2, $3, $4, $5, $6);

-- name: mark_verified
-- Let a domain send.
update sending_domains set verified_at = coalesce(verified_at, $3) where workspace_id = $1 and domain = $2;
