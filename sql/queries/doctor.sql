-- name: server
-- What server this is, and whether it keeps what it has committed.
select
  current_setting('server_version') as version,
  current_setting('fsync') = 'on' and current_setting('full_page_writes') = 'on' as durable,
  current_setting('synchronous_commit') as synchronous_commit,
  pg_is_in_recovery() as standby;

-- name: clock
-- The database's time, to be held against the host's.
select extract(epoch from clock_timestamp())::float8;

-- name: standbys
-- Whether a standby is named that commits are to wait for; whether they wait for any; and whether such a one is there: another, or one
-- that still catches up, ends no wait. Whoever may not see which kind it is sees null.
select
  current_setting('synchronous_standby_names') <> '' as named,
  current_setting('synchronous_commit') not in ('off', 'local') as waited_for,
  exists (select from pg_stat_replication where sync_state is null or sync_state in ('sync', 'quorum')) as there;

-- name: roles
-- The service's roles that are missing, and those that cannot log in by password or otherwise.
select wanted.name, r.rolcanlogin
from unnest(array['payments_owner', 'payments_api', 'payments_relay', 'payments_worker', 'payments_readonly']) wanted (name)
left join pg_roles r on r.rolname = wanted.name;

-- name: restore
-- Whether the database was restored and Stripe has still to be looked at, since when, and what is left to be weighed.
select
  to_char(stripe_unlisted_since at time zone 'UTC', 'YYYY-MM-DD HH24:MI:SS "UTC"'),
  case when stripe_unlisted_since is not null then (select count(*) from payments.inbox where processed_at is null) else 0 end
from payments.cluster;

-- name: behind
-- Lanes that owe events for longer than a minute.
select queue_name, waiting, extract(epoch from lag)::int as lag_s from payments.outbox_lag
where lag > interval '1 minute';

-- name: inbox
-- How much of the inbox has waited for longer than a minute, and how much has failed before.
select count(*) filter (where age > interval '1 minute') as old, count(*) filter (where attempts > 0) as failing
from payments.inbox_pending;

-- name: stuck
-- Payments that wait in a state that should pass.
select status, count(*) from payments.stuck_payments group by status order by status;

-- name: parked
-- Calls to Stripe that need an operator, and of whose dead letter none has said that nothing has to be done.
select count(*) from payments.stripe_requests c
where c.state = 'parked' and not exists (
  select from payments.dead_letters d
  where d.payment_id = c.payment_id and d.resolution like 'discarded:%' and d.resolved_at >= coalesce(c.last_attempt_at, c.created_at)
);

-- name: reconciliation
-- What the reconciler should have looked at minutes ago: watches, doubtful calls; for how long it has not compared events, and how
-- far behind Stripe's present it is with them: at its present it knows them to within ten minutes.
with patience as (
  select
    clock_timestamp() - make_interval(mins => 5, secs => %(reconcile_after_s)s::float8) as watches,
    clock_timestamp() - make_interval(mins => 15, secs => %(reconcile_after_s)s::float8) as calls,
    clock_timestamp() - make_interval(mins => 15, secs => %(events_backfill_s)s::float8) as events
)
select
  (select count(*) from payments.watches w where w.next_look_at < p.watches),
  (
    select count(*) from payments.stripe_requests c
    where c.state = 'to_reconcile' and coalesce(c.last_attempt_at, c.created_at) < p.calls
  ),
  (
    select extract(epoch from clock_timestamp() - e.updated_at)::int from payments.reconciler_progress e
    where e.job = 'events' and e.updated_at < p.events
  ),
  (
    select extract(epoch from clock_timestamp() - e.position)::int from payments.reconciler_progress e
    where e.job = 'events' and e.updated_at >= p.events and e.position < p.events - interval '10 minutes'
  )
from patience p;

-- name: dead_letters
-- Commands and inbox rows that were given up and not settled since.
select count(*) from payments.dead_letters where resolved_at is null;

-- name: limit_time
-- For the statements of this transaction.
select set_config('statement_timeout', %(timeout)s, true);

-- name: imbalances
-- What our own books disagree on; the first few.
select payment_id::text, imbalance from payments.audit_imbalances limit 5;

-- name: known_imbalances
-- The same as of the last audit, for books that are too long to be read while somebody waits.
select payment_id::text, finding from payments.audit_findings where kind = any(payments.imbalance_kinds()) limit 5;

-- name: audit
-- For how long the audit has not run; nothing when it has, or when there is nothing yet to audit.
select extract(epoch from clock_timestamp() - coalesce(
  (select ran_at from payments.audit_progress), (select created_at from payments.payments order by payment_id limit 1)
))::int;

-- name: oldest_transaction
-- How long the oldest open transaction of anybody has been holding back VACUUM.
select coalesce(extract(epoch from max(now() - xact_start)), 0)::int
from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid();
