-- name: lock_migrations
-- Let one process migrate at a time.
select pg_advisory_lock(7091951, 1);

-- name: unlock_migrations
-- Let the next process look.
select pg_advisory_unlock(7091951, 1);

-- name: create_migrations
-- Remember which migrations were applied.
create table if not exists migrations (
    name text primary key,
    sha256 text not null,
    applied_at timestamptz not null default clock_timestamp()
);

-- name: applied_migrations
-- Which migrations this database has, with the digest of each file.
select name, sha256 from migrations;

-- name: note_migration
-- Note a migration as applied.
insert into migrations (name, sha256) values ($1, $2);

-- name: server_version
-- The server's version as a number, such as 180001.
select current_setting('server_version_num')::integer;
