-- name: due_lanes
-- Lanes that have something due, of real workspaces ($2 false) or of rehearsals ($2 true).
select l.lane_id, l.workspace_id, l.pool, l.priority, l.site_id, s.name as site
from lanes l
join workspaces w on w.workspace_id = l.workspace_id and w.sandbox = $2
join sites s on s.site_id = l.site_id
where exists (select 1 from queue q where q.lane_id = l.lane_id and q.due <= $1)
order by l.priority, l.lane_id;

-- name: claim
-- Take due messages of the lanes that have room; attempt and next try are written before anybody dials. A paused campaign's are held.
with wanted as (
    select * from unnest($1::integer[], $2::integer[], $3::timestamptz[]) as w (lane_id, room, due_from)
),
taken as (
    select q.workspace_id, q.message_id, q.due
    from wanted w
    cross join lateral (
        select workspace_id, message_id, due
        from queue
        where lane_id = w.lane_id and due >= w.due_from and due <= $4 and (source_id is null or source_id = any($7::integer[]))
        order by due
        limit w.room
        for update skip locked
    ) q
    limit $6
),
claimed as (
    update queue q
    set due = case c.state when 'paused' then 'infinity' else $5::timestamptz end,
        state = case c.state when 'paused' then 2 else 1 end,
        attempt = case c.state when 'paused' then q.attempt else q.attempt + 1 end,
        reason = case c.state when 'paused' then 'campaign-paused' else q.reason end
    from taken t, campaigns c
    where q.workspace_id = t.workspace_id and q.message_id = t.message_id
      and c.workspace_id = q.workspace_id and c.campaign_id = q.campaign_id
    returning q.workspace_id, q.message_id, q.campaign_id, q.contact_id, q.lane_id, q.attempt, q.first_at,
              c.list_id, c.state as campaign_state, q.source_id, t.due
)
select c.workspace_id, c.message_id, c.campaign_id, c.contact_id, c.list_id, c.lane_id, l.site_id, c.attempt, k.email, k.fields,
       (extract(epoch from c.first_at) * 1000000)::bigint as first_at,
       case
           when c.campaign_state = 'cancelled' then 'cancelled'
           when k.erased_at is not null then 'erased'
           else (
               select s.cause
               from suppressions s
               where s.workspace_id = c.workspace_id and s.address_key = lower(k.email) and s.lifted_at is null
                 and (s.scope in ('all', 'marketing') or s.list_id = c.list_id)
               limit 1
           )
       end as withheld,
       c.source_id,
       c.due
from claimed c
join lanes l on l.lane_id = c.lane_id
join contacts k on k.workspace_id = c.workspace_id and k.contact_id = c.contact_id
where c.campaign_state <> 'paused';

-- name: next_work
-- For real ($1 false) or rehearsed ($1 true) workspaces: when the next message falls due, and when what is due at $2 may leave.
select min(q.due) filter (where q.due > $2) as due, min(coalesce(p.ready_at, q.due)) filter (where q.due <= $2) as ready
from lanes l
join workspaces w on w.workspace_id = l.workspace_id and w.sandbox = $1
cross join lateral (select due from queue where lane_id = l.lane_id and due < 'infinity' order by due limit 1) q
left join lateral (select min(ready_at) as ready_at from paces where site_id = l.site_id) p on true;

-- name: any_claimed
-- Whether a sender has a message of one kind of workspace in its hands.
select exists (
    select 1 from queue q join workspaces w on w.workspace_id = q.workspace_id and w.sandbox = $1 where q.state = 1
);

-- name: make_lanes
-- Make the lanes of a workspace to these sites, where they are missing.
insert into lanes (workspace_id, pool, site_id, priority)
select $1, $2, s.site_id, $4 from unnest($3::integer[]) as s (site_id)
on conflict do nothing;

-- name: chunk_domains
-- The recipient domains of a campaign between two contact ids.
select distinct k.domain
from memberships m
join contacts k on k.workspace_id = m.workspace_id and k.contact_id = m.contact_id
where m.workspace_id = $1 and m.list_id = $2 and m.contact_id > $3 and m.contact_id <= $4
  and m.status = 'subscribed' and k.erased_at is null;

-- name: chunk_sites
-- The sites behind the next recipients of a campaign.
select distinct coalesce($5::integer, r.site_id, 0) as site_id
from memberships m
join contacts k on k.workspace_id = m.workspace_id and k.contact_id = m.contact_id
left join domain_routes r on r.domain = k.domain
where m.workspace_id = $1 and m.list_id = $2 and m.contact_id > $3 and m.contact_id <= $4
  and m.status = 'subscribed' and k.erased_at is null;

-- name: put_chunk
-- Queue the recipients of a campaign between two contact ids.
insert into queue (workspace_id, message_id, lane_id, campaign_id, contact_id, due, first_at)
select m.workspace_id, nextval('message_ids'), l.lane_id, $5, m.contact_id, $6, $6
from memberships m
join contacts k on k.workspace_id = m.workspace_id and k.contact_id = m.contact_id
left join domain_routes r on r.domain = k.domain
join lanes l on l.workspace_id = m.workspace_id and l.pool = $7 and l.priority = $8 and l.site_id = coalesce($9::integer, r.site_id, 0)
where m.workspace_id = $1 and m.list_id = $2 and m.contact_id > $3 and m.contact_id <= $4
  and m.status = 'subscribed' and k.erased_at is null
order by m.contact_id;

-- name: last_message_id
-- The last message id given out.
select last_value from message_ids;

-- name: make_room
-- Make sure that message ids from $1 up to $2 have a partition.
select add_message_range('queue', low, low + $3::bigint)
from generate_series($1::bigint / $3::bigint * $3::bigint, $2::bigint, $3::bigint) as low;

-- name: lock_ranges
-- One process at a time makes or drops ranges of messages.
select pg_advisory_xact_lock(7091951, 2);

-- name: settle_final
-- Take finished messages out of the queue; returns those that were still in it.
delete from queue q
using unnest($1::integer[], $2::bigint[]) as o (workspace_id, message_id)
where q.workspace_id = o.workspace_id and q.message_id = o.message_id
  and q.message_id between $3 and $4
returning q.message_id;

-- name: settle_deferred
-- Let deferred messages wait for their next try, unless somebody has taken them up again since.
update queue q
set due = timestamptz 'epoch' + o.next_try * interval '1 microsecond', state = 0, reason = o.reason,
    source_id = coalesce(o.source_id, q.source_id)
from unnest($1::integer[], $2::bigint[], $3::integer[], $4::bigint[], $5::text[], $8::integer[])
    as o (workspace_id, message_id, attempt, next_try, reason, source_id)
where q.workspace_id = o.workspace_id and q.message_id = o.message_id and q.attempt = o.attempt and q.state = 1
  and q.message_id between $6 and $7;

-- name: settle_held
-- Set messages aside until a person decides.
update queue q
set due = 'infinity', state = 2, reason = o.reason
from unnest($1::integer[], $2::bigint[], $3::integer[], $4::text[]) as o (workspace_id, message_id, attempt, reason)
where q.workspace_id = o.workspace_id and q.message_id = o.message_id and q.attempt = o.attempt and q.state = 1;

-- name: put_back
-- Give claimed messages back untried: the attempt does not count.
update queue q
set due = o.due, state = 0, attempt = q.attempt - 1, reason = o.reason
from unnest($1::integer[], $2::bigint[], $3::integer[], $4::timestamptz[], $5::text[])
    as o (workspace_id, message_id, attempt, due, reason)
where q.workspace_id = o.workspace_id and q.message_id = o.message_id and q.attempt = o.attempt and q.state = 1;

-- name: mark_settled
-- Note how far a sender's journal is in the database.
insert into settle_marks (node, slot, settled) values ($1, $2, $3)
on conflict (node, slot) do update set settled = greatest(settle_marks.settled, excluded.settled);

-- name: settled_mark
-- How far a sender's journal is in the database.
select settled from settle_marks where node = $1 and slot = $2;

-- name: release_held
-- Let the held messages of a campaign fall due at once, some at a time.
update queue q
set due = $2, state = 0
from (select workspace_id, message_id from queue where campaign_id = $1 and state = 2 limit $3 for update skip locked) h
where q.workspace_id = h.workspace_id and q.message_id = h.message_id;

-- name: fall_due
-- Let what a campaign has deferred fall due at once, some at a time.
update queue q
set due = $2
from (
    select workspace_id, message_id from queue where campaign_id = $1 and state = 0 and due > $2 limit $3 for update skip locked
) w
where q.workspace_id = w.workspace_id and q.message_id = w.message_id;

-- name: recall
-- Let what waits for a reason fall due at once, some at a time.
update queue q
set due = $2
from (
    select workspace_id, message_id from queue where reason = $1 and state = 0 and due > $2 limit $3 for update skip locked
) w
where q.workspace_id = w.workspace_id and q.message_id = w.message_id;

-- name: waiting_counts
-- What of a campaign is still in the queue: state, reason, how many, and when the next of them falls due.
select state, reason, count(*) as count, min(due) as next_due
from queue
where workspace_id = $1 and campaign_id = $2
group by state, reason;

-- name: waiting_message
-- The queue row of one message.
select q.workspace_id, q.contact_id, q.state, q.due, q.attempt, q.reason, q.first_at, q.lane_id, l.priority, s.name as site,
       l.pool, r.until as rests_until, r.reply as rest_reply, p.ready_at, p.reason as paced, p.reply as pace_reply, p.per_second
from queue q
join lanes l on l.lane_id = q.lane_id
join sites s on s.site_id = l.site_id
left join lateral (
    select until, reply from site_rests where site_id = l.site_id and until > $2 order by until limit 1
) r on true
left join lateral (
    select ready_at, reason, reply, per_second from paces where site_id = l.site_id order by ready_at limit 1
) p on true
where q.message_id = $1;

-- name: unpin
-- What is bound to a source may leave from another.
update queue set source_id = null where source_id = $1;

-- name: ranges
-- The ranges of the queue, oldest first.
select c.relname as name
from pg_inherits i
join pg_class c on c.oid = i.inhrelid
where i.inhparent = 'queue'::regclass
order by c.oid;

-- name: drop_range
-- Drop a range of the queue that is empty and will get no more ids.
select drop_message_range($1, $2);

-- name: lane_overview
-- What waits in each lane of real ($1 false) or rehearsed ($1 true) workspaces at $2.
select l.lane_id, w.name as workspace, l.pool, l.priority, l.site_id, s.name as site,
       count(*) filter (where q.state = 0 and q.due > $2) as waiting,
       count(*) filter (where q.state = 0 and q.due <= $2) as due,
       count(*) filter (where q.state = 1) as under_way,
       count(*) filter (where q.state = 2) as held,
       min(q.due) filter (where q.state = 0 and q.due > $2) as next_due,
       min(q.first_at) as oldest
from queue q
join lanes l on l.lane_id = q.lane_id
join workspaces w on w.workspace_id = l.workspace_id and w.sandbox = $1
join sites s on s.site_id = l.site_id
group by l.lane_id, w.name, l.pool, l.priority, l.site_id, s.name
order by l.priority, s.name, l.lane_id;

-- name: waiting_for
-- The messages in the queue to an address, oldest first.
select q.message_id
from contacts k
join queue q on q.workspace_id = k.workspace_id and q.contact_id = k.contact_id
where k.workspace_id = $1 and lower(k.email) = lower($2)
order by q.message_id
limit $3;
