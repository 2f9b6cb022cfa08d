-- name: wake_senders
-- Tell idle senders that the queue has grown, or that the clock of a rehearsal has jumped.
select pg_notify('posthouse_queue', '');
