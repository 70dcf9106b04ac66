-- After a restore: where the database is, and since when Stripe knows more than it does (docs/adr/0015).

set local lock_timeout = '5s';
set local statement_timeout = '5min';

alter table payments.cluster add column rebased_at timestamptz, add column stripe_unlisted_since timestamptz;
comment on table payments.cluster is
  'The cluster this database lives in (pg_control_system), and whether it was restored from a backup. One row.';
comment on column payments.cluster.rebased_at is 'When `payments migrate --rebase` last brought it back after a restore.';
comment on column payments.cluster.stripe_unlisted_since is
  'After a restore: what happened at Stripe since then may be missing here. Until the reconciler has looked at all of it, and '
  'clears this, no wish is taken and no call is made that could move money. Null: nothing is missing.';
grant update (stripe_unlisted_since) on payments.cluster to payments_worker;

-- Every wish inserts here, so here it is held back after a restore: its cart may be paid at Stripe already, and forgotten here.
-- One look a statement, whoever runs it but those who bring Stripe's word.
create function payments.hold_wishes() returns trigger
language plpgsql as $$
begin
  if exists (select from payments.cluster where stripe_unlisted_since is not null) then
    raise exception 'restored from a backup: what happened at Stripe since is still being listed' using errcode = 'PY001';
  end if;
  return null;
end $$;
create trigger hold_wishes before insert on payments.outbox
for each statement when (not payments.hears_stripe())
execute function payments.hold_wishes();

-- Sends a queue all that its lane still owes it, in outbox order, and records nothing: begin_anew does that for all lanes. What is
-- owed follows from stored values alone: the last batch, and each row's transaction id, both of the cluster that is gone. The rows
-- pass through a cursor, a thousand at a time; sorting them spills to disk.
create function payments.settle_lane(lane text) returns bigint
language plpgsql
set jit = off
as $$
declare
  rows_max constant int := 1000;
  last constant payments.relay_batches := payments.last_batch(lane);
  owed record;
  payloads jsonb[] := '{}';
  event_headers jsonb[] := '{}';
  sent bigint := 0;
begin
  if last.batch_id is null then
    raise no_data_found using message = format('lane %s has no batch to start from', lane);
  end if;
  for owed in
    select o.payload, o.headers
    from payments.outbox_beyond(payments.settled_snapshot(last)) b
    join payments.outbox o using (outbox_id)
    where not payments.is_dispatched(last, o.xid, o.outbox_id)
      and exists (
        select from pgmq.topic_bindings t
        where t.queue_name = lane and payments.routing_key(o.event_type) ~ t.compiled_regex
      )
    order by o.outbox_id
  loop
    payloads := array_append(payloads, owed.payload);
    event_headers := array_append(event_headers, owed.headers);
    sent := sent + 1;
    if sent % rows_max = 0 then
      perform pgmq.send_batch(lane, payloads, event_headers);
      payloads := '{}';
      event_headers := '{}';
    end if;
  end loop;
  if cardinality(payloads) > 0 then
    perform pgmq.send_batch(lane, payloads, event_headers);
  end if;
  return sent;
end $$;
comment on function payments.settle_lane is 'After a restore: sends a queue whatever its lane owes it by the ids of the old cluster.';

-- From here on every lane counts in this cluster's ids, and has dispatched all there is. A row whose id this cluster has not come
-- past yet would be taken for a new one, so it gets the oldest id there is; how many were changed is returned. The old batches
-- speak of the old ids, so they go: of what was dispatched before, it is known only that it was, by now.
create function payments.begin_anew() returns bigint
language plpgsql as $$
declare
  start constant pg_snapshot := pg_current_snapshot();
  newest constant bigint := (select coalesce(max(batch_id), 0) from payments.relay_batches);
  restamped bigint;
begin
  alter table payments.outbox disable trigger keep_events;
  update payments.outbox set xid = '3' where xid >= pg_snapshot_xmin(start);
  get diagnostics restamped = row_count;
  alter table payments.outbox enable trigger keep_events;
  insert into payments.relay_batches (
    queue_name, previous_batch_id, after_snapshot, upto_snapshot, window_floor_id, window_ceiling_id, last_outbox_id, row_count,
    window_done
  )
  select l.queue_name, (payments.last_batch(l.queue_name)).batch_id, start, start, 0, 0, 0, 0, true from payments.lanes l;
  delete from payments.relay_batches where batch_id <= newest;
  return restamped;
end $$;
comment on function payments.begin_anew is
  'After a restore, once every lane is settled: all lanes begin again, in the ids of this cluster.';

revoke all on function payments.hold_wishes, payments.settle_lane, payments.begin_anew from public;
