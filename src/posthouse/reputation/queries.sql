-- name: suppress
-- Suppress the addresses of contacts; one that is suppressed already keeps its first cause, one that was lifted is suppressed anew.
insert into suppressions (workspace_id, address_key, scope, list_id, cause, at, message_id, reason)
select distinct on (k.workspace_id, lower(k.email), n.scope, n.list_id)
       k.workspace_id, lower(k.email), n.scope, n.list_id, n.cause,
       timestamptz 'epoch' + n.at * interval '1 microsecond', n.message_id, n.reason
from unnest($1::integer[], $2::bigint[], $3::text[], $4::integer[], $5::text[], $6::bigint[], $7::bigint[], $8::text[])
    as n (workspace_id, contact_id, scope, list_id, cause, at, message_id, reason)
join contacts k on k.workspace_id = n.workspace_id and k.contact_id = n.contact_id
order by k.workspace_id, lower(k.email), n.scope, n.list_id, n.at
on conflict (workspace_id, address_key, scope, list_id) do update
set cause = excluded.cause, at = excluded.at, message_id = excluded.message_id, reason = excluded.reason,
    lifted_at = null, lifted_reason = null
where suppressions.lifted_at is not null;

-- name: announce
-- Tell the senders that suppressions were written.
select pg_notify('posthouse_suppressed', '');

-- name: recent
-- Suppressions written since a moment, with the list that they are about (0: all mail, or all marketing).
select workspace_id, address_key, list_id, cause from suppressions where at >= $1 and lifted_at is null;

-- name: lift
-- Lift the suppressions of an address.
update suppressions set lifted_at = $3, lifted_reason = $4
where workspace_id = $1 and address_key = $2 and lifted_at is null;

-- name: list_suppressed
-- Suppressed addresses, newest first.
select address_key, scope, list_id, cause, at, message_id, reason
from suppressions
where workspace_id = $1 and lifted_at is null
order by at desc
limit $2;
