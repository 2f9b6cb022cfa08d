-- name: known_routes
-- What DNS said lately about these domains.
select r.domain, r.site_id, s.name as site, r.mx_hosts, r.mx_preferences
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
insert into domain_routes (domain, site_id, mx_hosts, mx_preferences, found_at, expires_at)
select r.domain, r.site_id, string_to_array(r.hosts, ' '), string_to_array(r.preferences, ' ')::integer[], $5, $6
from unnest($1::text[], $2::integer[], $3::text[], $4::text[]) as r (domain, site_id, hosts, preferences)
on conflict (domain) do update
set site_id = excluded.site_id, mx_hosts = excluded.mx_hosts, mx_preferences = excluded.mx_preferences,
    found_at = excluded.found_at, expires_at = excluded.expires_at;

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
