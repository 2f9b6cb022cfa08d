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
-- Let a provider rest from a source; a longer rest stays.
insert into site_rests (source_id, site_id, until, class, reply) values ($1, $2, $3, $4, $5)
on conflict (source_id, site_id) do update
set until = excluded.until, class = excluded.class, reply = excluded.reply
where site_rests.until < excluded.until;

-- name: resting_sites
-- Providers that rest at $1, from which source, why, and until when.
select r.source_id, c.name as source, r.site_id, s.name as site, r.until, r.class, r.reply
from site_rests r
join sites s on s.site_id = r.site_id
join sources c on c.source_id = r.source_id
where r.until > $1
order by r.until;

-- name: pool_sources
-- Which sources are in which pools, tier by tier.
select p.pool, p.weight, p.tier, s.source_id, s.name, s.kind, s.node, s.address, s.ehlo_name, s.region, s.state
from pool_sources p
join sources s on s.source_id = p.source_id
order by p.pool, p.tier, s.source_id;

-- name: list_sources
-- Every source.
select source_id, name, kind, node, address, ehlo_name, region, state from sources order by source_id;

-- name: find_source
-- A source by name.
select source_id, name, kind, node, address, ehlo_name, region, state from sources where name = $1;

-- name: add_source
-- Register an address of a node.
insert into sources (name, node, address, ehlo_name, region, created_at) values ($1, $2, $3, $4, $5, $6)
on conflict (name) do nothing
returning source_id;

-- name: set_source_state
-- Pause, drain or resume a source.
update sources set state = $2 where source_id = $1;

-- name: add_pool
-- Make a pool, for one workspace ($2) or for all.
insert into pools (pool, workspace_id) values ($1, $2) on conflict do nothing returning pool;

-- name: pool_exists
-- Whether there is such a pool.
select exists (select 1 from pools where pool = $1);

-- name: pool_owner
-- Whom a pool is for.
select workspace_id from pools where pool = $1;

-- name: put_in_pool
-- Put a source into a pool, or change its part in it.
insert into pool_sources (pool, source_id, weight, tier) values ($1, $2, $3, $4)
on conflict (pool, source_id) do update set weight = excluded.weight, tier = excluded.tier;

-- name: take_from_pool
-- Take a source out of a pool.
delete from pool_sources where pool = $1 and source_id = $2 returning source_id;

-- name: list_pools
-- Every pool with its sources and the streams that use it.
select p.pool, p.workspace_id,
       coalesce((
           select jsonb_agg(jsonb_build_object('source', s.name, 'weight', e.weight, 'tier', e.tier) order by e.tier, s.name)
           from pool_sources e join sources s on s.source_id = e.source_id where e.pool = p.pool
       ), '[]') as sources,
       coalesce((
           select jsonb_agg(jsonb_build_object('workspace', t.workspace_id, 'stream', t.stream) order by t.workspace_id, t.stream)
           from streams t where t.pool = p.pool
       ), '[]') as streams
from pools p
order by p.pool;

-- name: set_stream
-- Let a stream use a pool.
insert into streams (workspace_id, stream, pool) values ($1, $2, $3)
on conflict (workspace_id, stream) do update set pool = excluded.pool;

-- name: pool_of
-- The pool of a stream.
select pool from streams where workspace_id = $1 and stream = $2;

-- name: forget_paces
-- A sender that starts has told nothing yet.
delete from paces where node = $1 and slot = $2;

-- name: tell_paces
-- What keeps a sender from sending more, path by path.
insert into paces (node, slot, source_id, site_id, per_second, ready_at, reason, reply, is_slow, at)
select $1, $2, p.source_id, p.site_id, p.per_second, timestamptz 'epoch' + p.ready_at * interval '1 microsecond', p.reason, p.reply,
       p.is_slow, $10
from unnest($3::integer[], $4::integer[], $5::real[], $6::bigint[], $7::text[], $8::text[], $9::boolean[])
    as p (source_id, site_id, per_second, ready_at, reason, reply, is_slow)
on conflict (site_id, source_id, node, slot) do update
set per_second = excluded.per_second, ready_at = excluded.ready_at, reason = excluded.reason, reply = excluded.reply,
    is_slow = excluded.is_slow, at = excluded.at;

-- name: slow_paths
-- Paths that another sender of this node has found to be slow.
select source_id, site_id from paces where node = $1 and slot <> $2 and is_slow;

-- name: end_paces
-- Nothing keeps a sender from sending on these paths any more.
delete from paces p
using unnest($3::integer[], $4::integer[]) as e (source_id, site_id)
where p.node = $1 and p.slot = $2 and p.source_id = e.source_id and p.site_id = e.site_id;

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

-- name: path_overview
-- What keeps the senders from bringing more, by source and site.
select p.source_id, c.name as source, p.site_id, min(p.ready_at) as ready_at, sum(p.per_second) as per_second,
       (array_agg(p.reason order by p.ready_at))[1] as reason, (array_agg(p.reply order by p.at desc) filter (where p.reply is not null))[1] as reply
from paces p
join sources c on c.source_id = p.source_id
group by p.source_id, c.name, p.site_id;
