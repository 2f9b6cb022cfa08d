-- name: create
-- Add a campaign, frozen: its list's last member, its compiled message and its frame are what they are now.
insert into campaigns (workspace_id, name, list_id, state, from_address, subject, compiled, frame, links, created_at, launch_until)
select $1, $2, $3, 'launching', $4, $5, $6, $7, $8, $9,
       coalesce((select max(contact_id) from memberships where workspace_id = $1 and list_id = $3), 0)
on conflict (workspace_id, name) do nothing
returning campaign_id;

-- name: name_is_taken
-- Whether a workspace has a campaign of this name.
select exists (select 1 from campaigns where workspace_id = $1 and name = $2);

-- name: find
-- A campaign by id.
select c.workspace_id, c.campaign_id, c.name, c.list_id, c.state, c.from_address, c.subject, c.created_at, c.launch_after,
       c.launch_until, c.launched_at, c.queued, c.finished_at, w.sandbox, c.paused_reason
from campaigns c join workspaces w on w.workspace_id = c.workspace_id
where c.campaign_id = $1;

-- name: find_by_name
-- Campaigns of a name, in any workspace; a real one before its rehearsals.
select c.workspace_id, c.campaign_id, c.name, c.list_id, c.state, c.from_address, c.subject, c.created_at, c.launch_after,
       c.launch_until, c.launched_at, c.queued, c.finished_at, w.sandbox, c.paused_reason
from campaigns c join workspaces w on w.workspace_id = c.workspace_id
where c.name = $1
order by w.sandbox, c.campaign_id desc
limit 1;

-- name: list
-- All campaigns, newest first.
select c.workspace_id, c.campaign_id, c.name, c.list_id, c.state, c.from_address, c.subject, c.created_at, c.launch_after,
       c.launch_until, c.launched_at, c.queued, c.finished_at, w.sandbox
from campaigns c join workspaces w on w.workspace_id = c.workspace_id
order by c.campaign_id desc
limit $1;

-- name: by_state
-- Campaigns of real ($2 false) or rehearsed ($2 true) workspaces in one state, oldest first.
select c.workspace_id, c.campaign_id, c.name, c.list_id, c.state, c.from_address, c.subject, c.created_at, c.launch_after,
       c.launch_until, c.launched_at, c.queued, c.finished_at, w.sandbox
from campaigns c join workspaces w on w.workspace_id = c.workspace_id and w.sandbox = $2
where c.state = $1
order by c.campaign_id;

-- name: those_in_states
-- Which of these campaigns are in one of the states $2.
select campaign_id from campaigns where campaign_id = any($1::bigint[]) and state = any($2::text[]);

-- name: unlaunched
-- Campaigns whose launch is not complete and that were not cancelled, oldest first.
select c.workspace_id, c.campaign_id, c.name, c.list_id, c.state, c.from_address, c.subject, c.created_at, c.launch_after,
       c.launch_until, c.launched_at, c.queued, c.finished_at, w.sandbox
from campaigns c join workspaces w on w.workspace_id = c.workspace_id and w.sandbox = $1
where c.launched_at is null and c.state in ('launching', 'sending')
order by c.campaign_id;

-- name: compiled
-- What a sender needs of a campaign.
select workspace_id, list_id, from_address, compiled, frame from campaigns where campaign_id = $1;

-- name: link
-- One tracked target.
select links[$3 + 1] from campaigns where workspace_id = $1 and campaign_id = $2;

-- name: chunk_end
-- The contact id that ends the next chunk of members; null when there are none.
select max(contact_id)
from (
    select contact_id from memberships
    where workspace_id = $1 and list_id = $2 and contact_id > $3 and contact_id <= $4
    order by contact_id
    limit $5
) next;

-- name: lock_for_launch
-- Take a campaign for one chunk of its launch.
select launch_after from campaigns
where workspace_id = $1 and campaign_id = $2 and launched_at is null and state in ('launching', 'sending')
for update skip locked;

-- name: move_launch
-- Note that the members up to a contact id are queued.
update campaigns set launch_after = $3, queued = queued + $4, state = 'sending' where workspace_id = $1 and campaign_id = $2;

-- name: mark_launched
-- The launch is complete.
update campaigns set launched_at = $3, state = case state when 'launching' then 'sending' else state end
where workspace_id = $1 and campaign_id = $2;

-- name: change_state
-- Move a campaign from one of the states $4 to another.
update campaigns set state = $3, paused_reason = null, finished_at = case $3 when 'finished' then $5::timestamptz else finished_at end
where workspace_id = $1 and campaign_id = $2 and state = any($4::text[])
returning state;

-- name: traits
-- What everything that these campaigns send has in common.
select workspace_id, campaign_id, name, from_address, links from campaigns where campaign_id = any($1::bigint[]);

-- name: stop
-- Pause a campaign that is in one of the states $2, because of a reply.
update campaigns set state = 'paused', paused_reason = $3
where campaign_id = $1 and state = any($2::text[])
returning campaign_id;
