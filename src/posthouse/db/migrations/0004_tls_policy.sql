-- TLS policies of recipient domains, and what came of sessions under them. All of it is written by the delivery room.

alter table domain_routes add column mx_authentic boolean not null default false;
comment on column domain_routes.mx_authentic is 'A validating name server vouched for the MX records, so DANE may apply (RFC 7672).';

create table sts_policies (
    domain text primary key,
    policy_id text not null,
    mode text not null check (mode in ('enforce', 'testing', 'none')),
    mx text[] not null,
    max_age integer not null,
    fetched_at timestamptz not null,
    expires_at timestamptz not null
);
comment on table sts_policies is 'MTA-STS policies as their domains published them; one stays in force until it expires (RFC 8461).';

create table tls_reported_policies (
    day date not null,
    domain text not null,
    policy_type text not null check (policy_type in ('tlsa', 'sts', 'no-policy-found')),
    policy text[] not null,
    mx text[] not null,
    primary key (day, domain, policy_type)
);
comment on table tls_reported_policies is 'The policy that a day''s sessions with a domain were under, as its TLS report quotes it (RFC 8460).';

create table tls_results (
    day date not null,
    domain text not null,
    policy_type text not null,
    mx_host text not null,
    result text not null,
    sessions bigint not null,
    primary key (day, domain, policy_type, mx_host, result),
    foreign key (day, domain, policy_type) references tls_reported_policies on delete cascade
);
comment on column tls_results.result is 'What failed, a result type of RFC 8460; empty for sessions that were encrypted as asked.';
