-- name: known_routes
-- What DNS said lately about these domains.
select r.domain, r.site_id, s.name as site, r.mx_hosts, r.mx_preferences, r.mx_authentic
from domain_routes r
join sites s on s.site_id = r.site_id
where r.domain = any($1::text[]) and r.expires_at > $2;

-- name: make_sites
-- Give these mailbox providers a number, where they have none.
insert into sites (name) select distinct name from unnest($1::text[]) as n (name) on conflict do nothing;

-- name: site_ids
-- The numbers of these mailbox providers.
select name, site_id from sites where name = any($1::text[]);

-- name: keep_routes
-- Share what DNS said with all senders.
insert into domain_routes (domain, site_id, mx_hosts, mx_preferences, found_at, expires_at, mx_authentic)
select r.domain, r.site_id, string_to_array(r.hosts, ' '), string_to_array(r.preferences, ' ')::integer[], $5, $6, r.authentic
from unnest($1::text[], $2::integer[], $3::text[], $4::text[], $7::boolean[])
    as r (domain, site_id, hosts, preferences, authentic)
on conflict (domain) do update
set site_id = excluded.site_id, mx_hosts = excluded.mx_hosts, mx_preferences = excluded.mx_preferences,
    found_at = excluded.found_at, expires_at = excluded.expires_at, mx_authentic = excluded.mx_authentic;

-- name: start_rest
-- Let a provider rest; a longer rest stays.
insert into site_rests (site_id, until, class, reply) values ($1, $2, $3, $4)
on conflict (site_id) do update
set until = excluded.until, class = excluded.class, reply = excluded.reply
where site_rests.until < excluded.until;

-- name: resting_sites
-- Providers that rest at $1, why, and until when.
select r.site_id, s.name as site, r.until, r.class, r.reply
from site_rests r
join sites s on s.site_id = r.site_id
where r.until > $1
order by r.until;

-- name: kept_sts_policies
-- The MTA-STS policies of these domains that are in force at $2.
select domain, policy_id, mode, mx, max_age, fetched_at, expires_at
from sts_policies
where domain = any($1::text[]) and expires_at > $2;

-- name: keep_sts_policies
-- Share fetched MTA-STS policies with all senders; the one that was fetched last counts.
insert into sts_policies (domain, policy_id, mode, mx, max_age, fetched_at, expires_at)
select p.domain, p.policy_id, p.mode, string_to_array(p.mx, ' '), p.max_age, p.fetched_at, p.expires_at
from unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::integer[], $6::timestamptz[], $7::timestamptz[])
    as p (domain, policy_id, mode, mx, max_age, fetched_at, expires_at)
on conflict (domain) do update
set policy_id = excluded.policy_id, mode = excluded.mode, mx = excluded.mx, max_age = excluded.max_age,
    fetched_at = excluded.fetched_at, expires_at = excluded.expires_at
where sts_policies.fetched_at <= excluded.fetched_at;

-- name: keep_tls_policies
-- The policies that sessions were under, as their domains' reports quote them.
insert into tls_reported_policies (day, domain, policy_type, policy, mx)
select p.day, p.domain, p.policy_type, string_to_array(p.policy, e'\n'), string_to_array(p.mx, e'\n')
from unnest($1::date[], $2::text[], $3::text[], $4::text[], $5::text[]) as p (day, domain, policy_type, policy, mx)
on conflict (day, domain, policy_type) do update set policy = excluded.policy, mx = excluded.mx;

-- name: add_tls_results
-- Count sessions: by day, domain, kind of policy, mail exchanger and result.
insert into tls_results (day, domain, policy_type, mx_host, result, sessions)
select r.day, r.domain, r.policy_type, r.mx_host, r.result, r.sessions
from unnest($1::date[], $2::text[], $3::text[], $4::text[], $5::text[], $6::bigint[])
    as r (day, domain, policy_type, mx_host, result, sessions)
on conflict (day, domain, policy_type, mx_host, result) do update
set sessions = tls_results.sessions + excluded.sessions;

-- name: forget_tls_policies
-- Drop the counts of days before $1.
delete from tls_reported_policies where day < $1;

-- name: tls_results_of_day
-- The sessions of one day with one domain.
select r.policy_type, p.policy, p.mx, r.mx_host, r.result, r.sessions
from tls_results r
join tls_reported_policies p on p.day = r.day and p.domain = r.domain and p.policy_type = r.policy_type
where r.day = $1 and r.domain = $2
order by r.policy_type, r.result, r.mx_host;
