-- name: fill_contacts
-- Contacts spread evenly over the domains bench0.test, bench1.test and so on.
insert into contacts (workspace_id, email, fields, created_at, updated_at)
select 1, 'reader.' || n || '@bench' || n % $2::integer || '.test',
       jsonb_build_object('first_name', 'Ann ' || n, 'city', 'Lübeck', 'plan', 'pro', 'tags', array['sea', 'hills', 'night']), $3, $3
from generate_series(1, $1::integer) n

-- name: fill_list
-- Everybody joins the list.
insert into memberships (workspace_id, list_id, contact_id, status, since)
select 1, $1, contact_id, 'subscribed', $2 from contacts where workspace_id = 1

-- name: vacuum_contacts
-- What autovacuum would have done to a list that is older than a second.
vacuum analyze contacts

-- name: vacuum_memberships
-- The same for memberships.
vacuum analyze memberships

-- name: forget_keys
-- Without keys nothing is signed.
delete from dkim_keys
