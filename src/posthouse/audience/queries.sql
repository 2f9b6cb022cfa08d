-- name: ensure_list
-- Add a list of this name, where there is none.
insert into lists (workspace_id, name, created_at) values ($1, $2, $3) on conflict do nothing;

-- name: find_list
-- A list by name.
select list_id, name from lists where workspace_id = $1 and name = $2;

-- name: list_name
-- The name of a list.
select name from lists where workspace_id = $1 and list_id = $2;

-- name: list_lists
-- Lists with their sizes; the hidden list of test recipients stays hidden.
select l.list_id, l.name,
       count(*) filter (where m.status = 'subscribed' and k.erased_at is null) as subscribed,
       count(*) filter (where m.status = 'unsubscribed') as unsubscribed
from lists l
left join memberships m on m.workspace_id = l.workspace_id and m.list_id = l.list_id
left join contacts k on k.workspace_id = m.workspace_id and k.contact_id = m.contact_id
where l.workspace_id = $1 and l.name <> $2
group by l.list_id, l.name
order by l.name;

-- name: count_recipients
-- How many contacts a campaign to this list would reach.
select count(*)
from memberships m
join contacts k on k.workspace_id = m.workspace_id and k.contact_id = m.contact_id
where m.workspace_id = $1 and m.list_id = $2 and m.status = 'subscribed' and k.erased_at is null;

-- name: contact_address
-- The address of a contact.
select email from contacts where workspace_id = $1 and contact_id = $2;

-- name: unsubscribe
-- Let a contact leave a list; the row stays, and so does when the contact left first.
update memberships set status = 'unsubscribed', ended_at = coalesce(ended_at, $4)
where workspace_id = $1 and list_id = $2 and contact_id = $3 and status <> 'unsubscribed';

-- name: fields_page
-- The next subscribed members of a list with their fields.
select k.contact_id, k.email, k.fields
from memberships m
join contacts k on k.workspace_id = m.workspace_id and k.contact_id = m.contact_id
where m.workspace_id = $1 and m.list_id = $2 and m.contact_id > $3 and m.status = 'subscribed' and k.erased_at is null
order by m.contact_id
limit $4;

-- name: page_end
-- The contact id that ends the next page of members.
select max(contact_id)
from (
    select contact_id from memberships where workspace_id = $1 and list_id = $2 and contact_id > $3
    order by contact_id limit $4
) page;

-- name: copy_contacts
-- Copy the contacts of one page of a list into another workspace; a copy that is there is brought up to date.
insert into contacts as c (workspace_id, email, fields, created_at, updated_at, erased_at)
select $5, k.email, k.fields, $6, $6, k.erased_at
from memberships m
join contacts k on k.workspace_id = m.workspace_id and k.contact_id = m.contact_id
where m.workspace_id = $1 and m.list_id = $2 and m.contact_id > $3 and m.contact_id <= $4
on conflict (workspace_id, lower(email)) do update
set fields = excluded.fields, updated_at = excluded.updated_at, erased_at = excluded.erased_at
where c.fields <> excluded.fields or c.erased_at is distinct from excluded.erased_at;

-- name: copy_memberships
-- Copy the memberships of one page of a list into another workspace's list, as they stand.
insert into memberships as t (workspace_id, list_id, contact_id, status, basis, source, since, ended_at)
select $5, $6, c.contact_id, m.status, m.basis, m.source, m.since, m.ended_at
from memberships m
join contacts k on k.workspace_id = m.workspace_id and k.contact_id = m.contact_id
join contacts c on c.workspace_id = $5 and lower(c.email) = lower(k.email)
where m.workspace_id = $1 and m.list_id = $2 and m.contact_id > $3 and m.contact_id <= $4
on conflict (workspace_id, list_id, contact_id) do update set status = excluded.status, ended_at = excluded.ended_at
where t.status <> excluded.status;

-- name: drop_strangers
-- Take those off a copied list who are not on the original any more.
delete from memberships t
using contacts c
where t.workspace_id = $3 and t.list_id = $4 and c.workspace_id = t.workspace_id and c.contact_id = t.contact_id
  and not exists (
      select 1
      from contacts k
      join memberships m on m.workspace_id = k.workspace_id and m.contact_id = k.contact_id and m.list_id = $2
      where k.workspace_id = $1 and lower(k.email) = lower(c.email)
  );

-- name: put_contact
-- Add one contact, or find it; returns its id.
insert into contacts as c (workspace_id, email, fields, created_at, updated_at) values ($1, $2, $3, $4, $4)
on conflict (workspace_id, lower(email)) do update set fields = c.fields || excluded.fields
returning contact_id;

-- name: empty_list
-- Take everybody off a list.
delete from memberships where workspace_id = $1 and list_id = $2;

-- name: join_list
-- Put one contact on a list.
insert into memberships (workspace_id, list_id, contact_id, status, source, since) values ($1, $2, $3, 'subscribed', $4, $5);

-- name: begin_import
-- Note that an import began.
insert into imports (workspace_id, list_id, file_name, started_at) values ($1, $2, $3, $4) returning import_id;

-- name: end_import
-- Note what an import did.
update imports
set finished_at = $3, rows_read = $4, added = $5, updated = $6, unchanged = $7, rejected = $8
where workspace_id = $1 and import_id = $2;

-- name: make_staging
-- A place for the file's valid rows, seen by this connection only.
create temp table staged (
    n bigint not null, address_key text not null, email text not null, fields jsonb not null, unsubscribed boolean not null
);

-- name: set_address_keys
-- Where addresses go beyond ASCII, this database's own lower() says which are one.
update staged set address_key = lower(email) where address_key <> lower(email);

-- name: find_doubles
-- Addresses that several rows of the file have.
create temp table doubles as
select address_key from staged group by address_key having count(*) > 1;

-- name: merge_doubles
-- One row for each of those: the first spelling of the address, the last non-empty value of each field.
create temp table joined as
select min(s.n) as n, s.address_key, (array_agg(s.email order by s.n))[1] as email, merge_fields(s.fields order by s.n) as fields,
       bool_or(s.unsubscribed) as unsubscribed, count(*) as rows
from staged s
join doubles d on d.address_key = s.address_key
group by s.address_key;

-- name: remove_doubles
-- The rows that were joined leave the staging.
delete from staged s using doubles d where d.address_key = s.address_key;

-- name: return_joined
-- Their one row comes back.
insert into staged (n, address_key, email, fields, unsubscribed) select n, address_key, email, fields, unsubscribed from joined;

-- name: count_joined
-- How many rows were joined into others.
select coalesce(sum(rows - 1), 0)::bigint from joined;

-- name: index_staging
-- Let the chunks be found.
create index on staged (n);

-- name: analyze_staging
-- Let the planner know the staging's size.
analyze staged;

-- name: drop_staging
-- The connection goes back to the pool without them.
drop table if exists staged, doubles, joined;

-- name: plan_each_chunk
-- A plan for chunks in general takes them to be small, and joins each row with every other.
set local plan_cache_mode = force_custom_plan;

-- name: merge_chunk
-- Bring rows $5 < n <= $6 into contacts and memberships: new ones are added, changed ones updated, equal ones not touched at all.
with known as materialized (
    select s.address_key, s.email, s.fields, s.unsubscribed, c.contact_id is null as is_new,
           coalesce(c.contact_id, nextval('contacts_contact_id_seq')) as contact_id, not c.fields @> s.fields as changed,
           c.erased_at is not null as erased
    from staged s
    left join contacts c on c.workspace_id = $1 and lower(c.email) = s.address_key
    where s.n > $5 and s.n <= $6
),
added as (
    insert into contacts (workspace_id, contact_id, email, fields, created_at, updated_at)
    select $1, contact_id, email, fields, $3, $3 from known where is_new
),
updated as (
    update contacts c set fields = c.fields || k.fields, updated_at = $3
    from known k
    where k.changed and c.workspace_id = $1 and c.contact_id = k.contact_id and c.erased_at is null
    returning c.contact_id
),
members as (
    insert into memberships (workspace_id, list_id, contact_id, status, basis, source, since, ended_at)
    select $1, $2, contact_id, case when unsubscribed then 'unsubscribed' else 'subscribed' end, $4, $7, $3,
           case when unsubscribed then $3 end
    from known
    where not erased
    on conflict do nothing
)
select count(*) filter (where is_new) as added, (select count(*) from updated) as updated, count(*) as rows from known;
