-- name: record
-- Append events; one that is there already changes nothing. What people do is filed under the provider that took the message.
insert into ledger (workspace_id, message_id, kind, nth, at, campaign_id, contact_id, site_id, detail)
select e.workspace_id, e.message_id, e.kind, e.nth, timestamptz 'epoch' + e.at * interval '1 microsecond',
       e.campaign_id, e.contact_id,
       case e.site_id
           when 0 then coalesce(
               (select d.site_id from ledger d where d.workspace_id = e.workspace_id and d.message_id = e.message_id limit 1), 0
           )
           else e.site_id
       end,
       e.detail::jsonb
from unnest($1::integer[], $2::bigint[], $3::event_kind[], $4::bigint[], $5::bigint[], $6::bigint[], $7::bigint[], $8::integer[],
            $9::text[])
    as e (workspace_id, message_id, kind, nth, at, campaign_id, contact_id, site_id, detail)
on conflict do nothing;

-- name: record_late
-- Append "delivered" news that came after the message was settled: a replay of the same attempt changes nothing, another is a double.
insert into ledger (workspace_id, message_id, kind, nth, at, campaign_id, contact_id, site_id, detail)
select e.workspace_id, e.message_id, 'redelivered', e.nth, timestamptz 'epoch' + e.at * interval '1 microsecond',
       e.campaign_id, e.contact_id, e.site_id, e.detail::jsonb
from unnest($1::integer[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[], $7::integer[], $8::text[])
    as e (workspace_id, message_id, nth, at, campaign_id, contact_id, site_id, detail)
where not exists (
    select 1 from ledger l
    where l.workspace_id = e.workspace_id and l.message_id = e.message_id and l.kind = 'delivered' and l.nth = e.nth
)
on conflict do nothing;

-- name: history
-- The whole life of one message, oldest first.
select workspace_id, kind, nth, at, campaign_id, contact_id, site_id, detail
from ledger
where message_id = $1
order by at, nth;

-- name: messages_to
-- The last event of each message to an address, newest first; a search through the ledger, for people who look one recipient up.
select distinct on (l.message_id) l.message_id, l.campaign_id, l.kind, l.at
from ledger l
join contacts k on k.workspace_id = l.workspace_id and k.contact_id = l.contact_id
where lower(k.email) = lower($1)
order by l.message_id desc, l.at desc
limit 100;

-- name: make_room
-- Make sure that message ids from $1 up to $2 have a partition.
select add_message_range('ledger', low, low + $3::bigint)
from generate_series($1::bigint / $3::bigint * $3::bigint, $2::bigint, $3::bigint) as low;

-- name: campaign_lines
-- Every line of a campaign with the recipient's address, for reconciliation; reads the ledger from end to end.
select l.message_id, k.email, l.kind, l.nth, coalesce((l.detail ->> 'code')::integer, 0) as code
from ledger l
join contacts k on k.workspace_id = l.workspace_id and k.contact_id = l.contact_id
where l.workspace_id = $1 and l.campaign_id = $2;
