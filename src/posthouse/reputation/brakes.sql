-- name: lock_brakes
-- One transaction at a time counts refusals, so that two of them cannot each miss the other's.
select pg_advisory_xact_lock(7091951, 8);

-- name: note_refusals
-- Keep replies that count; one that was kept already changes nothing.
insert into refusals (sandbox, rule, kind, value, site_id, message_id, attempt, at)
select $1, r.* from unnest($2::text[], $3::text[], $4::text[], $5::integer[], $6::bigint[], $7::integer[], $8::timestamptz[]) as r
on conflict do nothing;

-- name: weigh
-- What the counted replies of each (rule, subject) come to at a moment, of their site and of all.
select k.n, b.strength, b.opened_at, coalesce(b.ended_at, b.until) as over_at,
       count(r.at) filter (where r.site_id = k.site_id and r.at > b.since) as here,
       count(r.at) filter (where r.at > greatest(a.since, case k.brake_site_id when 0 then b.since end)) as everywhere,
       count(distinct r.site_id) filter (where r.at > greatest(a.since, case k.brake_site_id when 0 then b.since end)) as sites
from unnest($2::text[], $3::text[], $4::text[], $5::integer[], $6::integer[], $7::timestamptz[], $8::float8[])
    with ordinality as k (rule, kind, value, site_id, brake_site_id, at, within_seconds, n)
left join lateral (
    select max(strength) as strength, max(opened_at) as opened_at, max(ended_at) as ended_at, max(until) as until,
           coalesce(greatest(max(set_at) + $9::float8 * interval '1 second', max(ended_at)), '-infinity') as since
    from brakes
    where sandbox = $1 and rule = k.rule and kind = k.kind and value = k.value and site_id = k.brake_site_id
) b on true
left join lateral (
    select coalesce(max(greatest(at, done_at)), '-infinity') as since
    from attention
    where sandbox = $1 and rule = k.rule and kind = k.kind and value = k.value
) a on true
left join refusals r on r.sandbox = $1 and r.rule = k.rule and r.kind = k.kind and r.value = k.value
    and r.at <= k.at and r.at > k.at - k.within_seconds * interval '1 second'
group by k.n, b.strength, b.opened_at, b.ended_at, b.until
order by k.n;

-- name: refused_days
-- On how many days each of these recipients was refused under a rule, up to and with that moment.
select k.n, count(distinct (r.at at time zone 'UTC')::date) as days
from unnest($2::text[], $3::text[], $4::timestamptz[]) with ordinality as k (rule, value, at, n)
join refusals r on r.sandbox = $1 and r.rule = k.rule and r.kind = 'recipient' and r.value = k.value
    and r.at <= k.at and r.at > k.at - $5::float8 * interval '1 second'
group by k.n;

-- name: set_brake
-- Open a brake, or set it anew.
insert into brakes (sandbox, kind, value, site_id, rule, reply, per_minute, connections, messages_per_connection, strength,
                    opened_at, set_at, until, level_at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $12)
on conflict (sandbox, kind, value, site_id, rule) do update
set reply = excluded.reply, per_minute = excluded.per_minute, connections = excluded.connections,
    messages_per_connection = excluded.messages_per_connection, strength = excluded.strength, opened_at = excluded.opened_at,
    set_at = excluded.set_at, until = excluded.until, level = 0, level_at = excluded.level_at, ended_at = null, ended_reason = null;

-- name: brakes_in_force
-- Brakes that are on at a moment.
select b.brake_id, b.kind, b.value, b.site_id, coalesce(s.name, '') as site, b.rule, b.reply, b.per_minute, b.connections,
       b.messages_per_connection, b.strength, b.opened_at, b.set_at, b.until
from brakes b
left join sites s on s.site_id = b.site_id and b.site_id <> 0
where b.sandbox = $1 and b.ended_at is null and (b.until is null or b.until > $2)
order by b.brake_id;

-- name: draw
-- Take allowance under braked rates, shared by all senders: as many as wanted, or as have accrued.
with wanted as (
    select * from unnest($1::bigint[], $2::integer[]) as w (brake_id, wanted)
),
accrued as (
    select b.brake_id, w.wanted,
           least(greatest(b.per_minute / 6, 1), b.level + b.per_minute * greatest(extract(epoch from $3 - b.level_at), 0) / 60) as level
    from brakes b
    join wanted w on w.brake_id = b.brake_id
    -- Never wait for a batch that sets a brake at this moment: what is wanted now is wanted again soon.
    for update of b skip locked
)
update brakes b
set level = a.level - least(a.wanted, floor(a.level)), level_at = greatest(b.level_at, $3)
from accrued a
where b.brake_id = a.brake_id
returning b.brake_id, least(a.wanted, floor(a.level))::integer as granted;

-- name: end_brake
-- A person ends a brake.
update brakes set ended_at = $3, ended_reason = $4
where brake_id = $2 and sandbox = $1 and ended_at is null and (until is null or until > $3)
returning brake_id;

-- name: end_brakes_of
-- A person is done with what brakes of a rule are about: they end, and with them what the rule stopped of the workspace's streams.
update brakes set ended_at = $6, ended_reason = $7
where sandbox = $1 and rule = $2 and ended_at is null and (until is null or until > $6)
  and ((kind = $3 and value = $4) or (kind = 'stream' and split_part(value, '/', 1) = $5::integer::text));

-- name: tell
-- Something needs a person; the same thing is told once, until the person is done with it.
insert into attention as a (sandbox, workspace_id, kind, value, rule, what, reply, mend, site_id, campaign_id, message_id, first_at, at)
values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)
on conflict (sandbox, rule, kind, value) where done_at is null do update
set at = greatest(a.at, excluded.at), times = a.times + 1, what = excluded.what, reply = excluded.reply, site_id = excluded.site_id,
    campaign_id = excluded.campaign_id, message_id = excluded.message_id;

-- name: attention
-- What needs a person ($2: and what a person is done with), newest first.
select a.attention_id, a.workspace_id, a.kind, a.value, a.rule, a.what, a.reply, a.mend, coalesce(s.name, '') as site,
       nullif(a.campaign_id, 0) as campaign_id, a.message_id, a.first_at, a.at, a.times, a.done_at, a.done_reason
from attention a
left join sites s on s.site_id = a.site_id
where a.sandbox = $1 and ($2 or a.done_at is null)
order by a.at desc, a.attention_id desc
limit $3;

-- name: attention_done
-- A person is done with something.
update attention set done_at = $3, done_reason = $4
where attention_id = $2 and sandbox = $1 and done_at is null
returning kind, value, rule, workspace_id, campaign_id;

-- name: forget_refusals
-- Drop replies that count towards nothing any more.
delete from refusals where at < $1 and (kind <> 'recipient' or at < $2);
