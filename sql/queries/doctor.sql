-- name: server
-- What server this is, and whether it keeps what it has committed.
select
  current_setting('server_version') as version,
  current_setting('fsync') = 'on' and current_setting('full_page_writes') = 'on' as durable,
  current_setting('synchronous_commit') as synchronous_commit,
  pg_is_in_recovery() as standby;

-- name: roles
-- The service's roles that are missing, and those that cannot log in by password or otherwise.
select wanted.name, r.rolcanlogin
from unnest(array['payments_owner', 'payments_api', 'payments_relay', 'payments_worker', 'payments_readonly']) wanted (name)
left join pg_roles r on r.rolname = wanted.name;

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
-- Calls to Stripe that need an operator.
select count(*) from payments.stripe_requests where state = 'parked';

-- name: dead_letters
-- Commands and inbox rows that were given up and not settled since.
select count(*) from payments.dead_letters where resolved_at is null;

-- name: imbalances
-- What our own books disagree on; the first few.
select payment_id::text, imbalance from payments.audit_imbalances limit 5;

-- name: oldest_transaction
-- How long the oldest open transaction of anybody has been holding back VACUUM.
select coalesce(extract(epoch from max(now() - xact_start)), 0)::int
from pg_stat_activity where backend_type = 'client backend' and pid <> pg_backend_pid();
