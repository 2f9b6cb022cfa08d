-- name: take_cursor
-- Take the cursor of a reader, and find how far the ledger may be read: below the oldest transaction that is still open.
insert into ledger_cursors (reader, read_until) values ($1, '0')
on conflict (reader) do update set read_until = ledger_cursors.read_until -- locks the row, so one reader counts at a time
-- A reader that had to wait for another looks from an older moment, and must not go back.
returning read_until::text as read_from, greatest(read_until, pg_snapshot_xmin(pg_current_snapshot()))::text as read_to;

-- name: next_stop
-- The transaction at which a reading of about $3 lines may stop.
select written_by::text
from ledger
where written_by >= $1::text::xid8 and written_by < $2::text::xid8
order by written_by
offset $3 limit 1;

-- name: count_news
-- Add the lines between two transactions to the counts.
insert into campaign_counts as c (workspace_id, campaign_id, site_id, kind, class, count, first_at, last_at)
select workspace_id, campaign_id, site_id, kind, class, count(*), min(at), max(at)
from (
    -- What was suppressed has a cause in the place of a bounce's class.
    select *, coalesce(detail ->> 'class', case kind when 'suppressed' then detail ->> 'rule' end, '') as class
    from ledger
    where written_by >= $1::text::xid8 and written_by < $2::text::xid8
) news
group by workspace_id, campaign_id, site_id, kind, class
order by workspace_id, campaign_id, site_id, kind, 5
on conflict (workspace_id, campaign_id, site_id, kind, class) do update
set count = c.count + excluded.count, first_at = least(c.first_at, excluded.first_at), last_at = greatest(c.last_at, excluded.last_at);

-- name: move_cursor
-- Note how far a reader has come.
update ledger_cursors set read_until = $2::text::xid8 where reader = $1;

-- name: campaign_counts
-- The counts of a campaign by provider, kind and class.
select coalesce(s.name, 'unknown') as site, c.kind, c.class, c.count
from campaign_counts c
left join sites s on s.site_id = c.site_id
where c.workspace_id = $1 and c.campaign_id = $2
order by site, c.kind, c.class;

-- name: deferred_then_delivered
-- Messages that were deferred at least once and delivered in the end, by provider.
select coalesce(s.name, 'unknown') as site, count(distinct d.message_id) as count
from ledger d
left join sites s on s.site_id = d.site_id
where d.campaign_id = $2 and d.workspace_id = $1 and d.kind = 'deferred'
  and exists (
      select 1 from ledger l where l.workspace_id = d.workspace_id and l.message_id = d.message_id and l.kind = 'delivered'
  )
group by site;

-- name: people
-- How many messages were opened, clicked, complained about and unsubscribed from, each counted once.
select coalesce(s.name, 'unknown') as site, l.kind, count(distinct l.message_id) as count
from ledger l
left join sites s on s.site_id = l.site_id
where l.campaign_id = $2 and l.workspace_id = $1 and l.kind in ('opened', 'clicked', 'complained', 'unsubscribed', 'bounced-later')
group by site, l.kind;

-- name: final_count
-- How many messages of a campaign have their final outcome, and when the first and the last of them had it.
select coalesce(sum(count), 0)::bigint as count, min(first_at) as first_at, max(last_at) as last_at
from campaign_counts
where workspace_id = $1 and campaign_id = $2 and kind in ('delivered', 'bounced', 'expired', 'suppressed', 'cancelled');
