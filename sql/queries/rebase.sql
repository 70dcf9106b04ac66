-- name: be_patient
-- For the transaction: whoever writes to the outbox is waited for, but not for long.
select set_config('lock_timeout', %(lock_timeout)s, true);

-- name: lock_writers_out
-- From here on nobody else writes an event or dispatches one, until the transaction ends. Reading goes on.
lock table payments.outbox, payments.relay_batches, payments.cluster in exclusive mode;

-- name: look
-- Whether this is the cluster the database was made in, the time, and how far Stripe is known. The newest times that are stored
-- say when the backup was taken, at the earliest; of its events the reconciler may not have seen the latest. A restore brings back
-- when the database was made; where only rows were brought into a new one, the first line of history is older than that.
select
  c.system_identifier = (select system_identifier::text from pg_control_system()) as is_home,
  clock_timestamp() as now,
  c.stripe_unlisted_since,
  least(
    greatest(
      c.recorded_at,
      (select occurred_at from payments.outbox order by outbox_id desc limit 1),
      (select received_at from payments.inbox order by inbox_id desc limit 1),
      (select at from payments.payment_history order by history_id desc limit 1)
    ),
    (select position from payments.reconciler_progress where job = 'events'),
    clock_timestamp()
  ) as newest,
  least(c.recorded_at, (select at from payments.payment_history order by history_id limit 1)) as oldest
from payments.cluster c;

-- name: lanes
-- Every lane there is.
select queue_name from payments.lanes order by queue_name;

-- name: settle_lane
-- Sends a queue what its lane owes it; how many messages.
select payments.settle_lane(%(queue)s);

-- name: begin_anew
-- All lanes go on in the ids of this cluster; how many rows of the outbox got another id for that.
select payments.begin_anew();

-- name: record_rebase
-- The database lives here now, and Stripe is to be listed since then.
update payments.cluster
set
  system_identifier = (select system_identifier::text from pg_control_system()), rebased_at = clock_timestamp(),
  stripe_unlisted_since = %(since)s;

-- name: forget_listing
-- Whatever was listed for an earlier restore does not count.
delete from payments.reconciler_progress where job like 'listing/%%';

-- name: begin_audit
-- The audit has seen nothing yet, in this cluster's snapshots, and after a restore all is worth a look.
delete from payments.audit_progress;
