-- name: add_people
-- $2 contacts whose addresses begin with $3, spread over the domains $4 in turn.
insert into contacts (workspace_id, email, fields, created_at, updated_at)
select $1, $3 || i || '@' || ($4::text[])[i % array_length($4::text[], 1) + 1],
       jsonb_build_object('first_name', 'Person ' || i, 'city', 'Sampletown'), $5, $5
from generate_series(1, $2::integer) as i;

-- name: add_list
-- A list of the name $2.
insert into lists (workspace_id, name, created_at) values ($1, $2, $3) returning list_id;

-- name: join_list
-- Everybody whose address begins with $3 joins the list.
insert into memberships (workspace_id, list_id, contact_id, status, since)
select workspace_id, $2, contact_id, 'subscribed', $4
from contacts
where workspace_id = $1 and email like $3 || '%';

-- name: activity
-- What Posthouse's connections run at this moment, and whether that writes.
select pid, state, query, backend_xid is not null as writes
from pg_stat_activity
where application_name = 'posthouse' and pid <> all($1::integer[]);

-- name: launch
-- How far a launch has come.
select launch_after, launch_until, queued, launched_at is not null as launched
from campaigns
where campaign_id = $1;

-- name: waiting
-- What of a campaign is in the queue: rows, those claimed, and those that are due at $2.
select count(*) as queued,
       count(*) filter (where state = 1) as claimed,
       count(*) filter (where due <= $2) as due
from queue
where campaign_id = $1;

-- name: marks
-- How far each sender's journal is in the database.
select slot, settled from settle_marks;

-- name: finals
-- How many recipients of a campaign have a final outcome.
select count(*)
from ledger
where campaign_id = $1 and kind in ('delivered', 'bounced', 'expired', 'suppressed', 'cancelled');

-- name: lines
-- Every ledger line of a campaign: recipient, message, kind and attempt, and what the line says.
select lower(k.email) as recipient, l.message_id, l.kind, l.nth, l.detail
from ledger l
join contacts k on k.workspace_id = l.workspace_id and k.contact_id = l.contact_id
where l.campaign_id = $1;

-- name: members
-- The addresses of a list.
select lower(k.email) as recipient
from memberships m
join contacts k on k.workspace_id = m.workspace_id and k.contact_id = m.contact_id
where m.list_id = $1;

-- name: suppressed
-- How many addresses that begin with $1 are suppressed.
select count(*) from suppressions where address_key like $1 || '%';
