-- What Stripe tells of a payment while its past is being forgotten stays, and is weighed.

set local lock_timeout = '5s';
set local statement_timeout = '5min';

create or replace function payments.forget_payments(kept_days int, rows_max int) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  old_at timestamptz := clock_timestamp() - make_interval(days => kept_days);
  looked_at uuid[];
  ids uuid[];
begin
  if kept_days < 35 then
    raise exception 'Stripe tells of the last 30 days again, and repeats webhooks for 3: nothing younger than 35 days is forgotten';
  end if;
  select array_agg(s.payment_id order by s.payment_id) into looked_at from (
    select p.payment_id from payments.payments p
    where p.payment_id > coalesce((select g.payment_id from payments.retention_progress g), '00000000-0000-0000-0000-000000000000')
    order by p.payment_id limit rows_max
  ) s;
  update payments.retention_progress
  set payment_id = case when cardinality(looked_at) = rows_max then looked_at[rows_max] end;
  select array_agg(l.payment_id) into ids from (
    select p.payment_id from payments.payments p
    where p.payment_id = any (looked_at) and p.status in ('SUCCEEDED', 'FAILED', 'VOIDED', 'EXPIRED') and p.updated_at < old_at
      and (
        exists (select from payments.outbox o where o.aggregate_id = p.payment_id)
        or exists (select from payments.inbox i where i.payment_id = p.payment_id)
        or exists (select from payments.dead_letters d where d.payment_id = p.payment_id)
      )
    for no key update skip locked
  ) l;
  -- Under the locks, and in a snapshot of its own.
  with routes as materialized (
    select payments.last_batch(l.queue_name) as last, t.compiled_regex
    from payments.lanes l
    join pgmq.topic_bindings t using (queue_name)
  )
  select array_agg(p.payment_id) into ids from payments.payments p
  where p.payment_id = any (ids) and p.status in ('SUCCEEDED', 'FAILED', 'VOIDED', 'EXPIRED') and p.updated_at < old_at
    and not exists (
      select from payments.outbox o
      where o.aggregate_id = p.payment_id
        and (
          o.occurred_at >= old_at
          or exists (
            select from routes r
            where payments.routing_key(o.event_type) ~ r.compiled_regex
              and payments.is_dispatched(r.last, o.xid, o.outbox_id) is not true
          )
        )
    )
    and not exists (
      select from payments.inbox i
      where i.payment_id = p.payment_id and (i.processed_at is null or i.processed_at >= old_at or i.received_at >= old_at)
    )
    and not exists (
      select from payments.dead_letters d
      where d.payment_id = p.payment_id and (d.resolved_at is null or d.resolved_at >= old_at)
    )
    and not exists (
      select from payments.refunds f
      where f.payment_id = p.payment_id and (f.status in ('REQUESTED', 'PENDING') or f.updated_at >= old_at)
    )
    and not exists (
      select from payments.disputes d
      where d.payment_id = p.payment_id and (d.closed_at is null or d.closed_at >= old_at or d.updated_at >= old_at)
    )
    and not exists (select from payments.stripe_requests c where c.payment_id = p.payment_id and c.state <> 'answered')
    and not exists (select from payments.watches w where w.payment_id = p.payment_id)
    and not exists (select from payments.audit_findings a where a.payment_id = p.payment_id);
  insert into payments.forgotten as f (payment_id, events)
  select p.payment_id, p.last_sequence from payments.payments p where p.payment_id = any (ids)
  on conflict (payment_id) do update set events = excluded.events, forgotten_at = excluded.forgotten_at;
  delete from payments.outbox o where o.aggregate_id = any (ids);
  -- A webhook that came meanwhile locks no payment: it stays, and so does a letter of it.
  delete from payments.inbox i where i.payment_id = any (ids) and i.processed_at < old_at and i.received_at < old_at;
  delete from payments.dead_letters d where d.payment_id = any (ids) and d.resolved_at < old_at;
  return coalesce(cardinality(looked_at), 0);
end $$;
