-- The audit: more kinds of imbalance, one row a payment, and a run that looks only at what may have changed. For before a deploy:
-- the view keeps its name and its columns, and gets more.

set local lock_timeout = '2s';
set local statement_timeout = '60s';

-- Every committed intent is exactly one of: pending in the outbox, waiting in its queue, in doubt at Stripe, recorded, dead.
-- A row below means money that nobody is looking after, news that nobody was told, or a sum that is off. Each kind of it stands
-- here once; what one cause brings about by itself is told after what says most about it, in this order.
create function payments.imbalance_kinds() returns text[]
language sql immutable parallel safe
return array[
  'payment_unowned', 'payment_unwatched', 'refund_unowned', 'refund_unwatched', 'death_unnoticed', 'charged_twice',
  'outcome_untold', 'outcome_contradicted', 'refund_mistold', 'dispute_mistold', 'told_of_nothing', 'answer_lost',
  'stripe_unasked', 'refunded_off', 'reserved_off', 'disputed_off', 'events_misnumbered', 'history_off'
];
comment on function payments.imbalance_kinds is 'What payments.audit_imbalances can find, what says most first.';

create view payments.imbalances as
select p.payment_id, 'payment_unowned' as kind, p.payment_id as subject_id, 'nobody is working on it' as imbalance
from payments.payments p
where p.status = 'REQUESTED'
  and not exists (
    select from payments.outbox o
    where o.aggregate_id = p.payment_id and o.event_type = 'payment-requested'
      and not payments.is_dispatched((select payments.last_batch('payment_requested')), o.xid, o.outbox_id)
  )
  and not exists (select from pgmq.q_payment_requested q where q.message ->> 'paymentId' = p.payment_id::text)
  and not exists (select from payments.inbox i where i.payment_id = p.payment_id and i.processed_at is null)
  and not exists (select from payments.stripe_requests c where c.payment_id = p.payment_id and c.state in ('parked', 'to_reconcile'))
  and not exists (select from payments.dead_letters d where d.payment_id = p.payment_id and d.resolved_at is null)
  and (p.processor_payment_intent is null or not exists (select from payments.watches w where w.payment_id = p.payment_id))
union all
-- The reconciler's watch over these leads back to whoever has to work on them.
select p.payment_id, 'payment_unwatched', p.payment_id, p.status || ', and nobody looks after it'
from payments.payments p
where p.status in ('ACTION_REQUIRED', 'PROCESSING', 'AUTHORIZED', 'CAPTURING', 'VOIDING')
  and not exists (select from payments.watches w where w.payment_id = p.payment_id)
  and not exists (select from payments.inbox i where i.payment_id = p.payment_id and i.processed_at is null)
  and not exists (select from payments.dead_letters d where d.payment_id = p.payment_id and d.resolved_at is null)
union all
select f.payment_id, 'refund_unowned', f.refund_id, 'nobody is working on refund ' || f.refund_id
from payments.refunds f
where f.status = 'REQUESTED'
  and not exists (
    select from payments.outbox o
    where o.aggregate_id = f.payment_id and o.event_type = 'refund-requested'
      and not payments.is_dispatched((select payments.last_batch('refund_requested')), o.xid, o.outbox_id)
  )
  and not exists (select from pgmq.q_refund_requested q where q.message ->> 'refundId' = f.refund_id::text)
  and not exists (select from payments.inbox i where i.payment_id = f.payment_id and i.processed_at is null)
  and not exists (
    select from payments.stripe_requests c where c.subject_id = f.refund_id and c.state in ('parked', 'to_reconcile')
  )
  and not exists (select from payments.dead_letters d where d.payment_id = f.payment_id and d.resolved_at is null)
union all
select f.payment_id, 'refund_unwatched', f.refund_id, 'refund ' || f.refund_id || ' is PENDING, and nobody looks after it'
from payments.refunds f
where f.status = 'PENDING'
  and not exists (select from payments.watches w where w.payment_id = f.payment_id)
  and not exists (select from payments.inbox i where i.payment_id = f.payment_id and i.processed_at is null)
  and not exists (select from payments.dead_letters d where d.payment_id = f.payment_id and d.resolved_at is null)
union all
-- What was given up has a letter, settled or not.
select i.payment_id, 'death_unnoticed', i.payment_id, 'inbox row ' || i.inbox_id || ' is dead, and has no dead letter'
from payments.inbox i
where i.outcome = 'dead' and i.payment_id is not null
  and not exists (select from payments.dead_letters d where d.origin = 'inbox' and d.message_id = i.inbox_id::text)
union all
-- A new generation is made only after proof that the one before did nothing.
select c.payment_id, 'charged_twice', c.subject_id, c.operation || ' did what it is for ' || count(*) || ' times'
from payments.stripe_requests c
where c.operation in ('create_payment_intent', 'create_refund') and c.outcome in ('answered', 'settled', 'adopted')
group by c.payment_id, c.subject_id, c.operation
having count(*) > 1
union all
select p.payment_id, 'outcome_untold', p.payment_id, 'settled as ' || p.status || ', not published'
from payments.payments p
where p.status in ('SUCCEEDED', 'FAILED', 'VOIDED', 'EXPIRED')
  and not exists (
    select from payments.outbox o
    where o.aggregate_id = p.payment_id and o.event_type = 'payment-' || lower(p.status)
  )
union all
select o.aggregate_id, 'outcome_contradicted', o.aggregate_id, 'published ' || o.event_type || ', but is ' || p.status
from payments.outbox o
join payments.payments p on p.payment_id = o.aggregate_id
where o.event_type in ('payment-succeeded', 'payment-failed', 'payment-voided', 'payment-expired')
  and 'payment-' || lower(p.status) <> o.event_type and p.status <> 'CONFLICTED'
union all
-- One that failed after it was processed was told of twice, differently.
select
  f.payment_id, 'refund_mistold', f.refund_id,
  'refund ' || f.refund_id || ' is ' || f.status || ': told ' || t.requested || ' times of the wish, ' || t.processed
  || ' times that it is processed, ' || t.failed || ' times that it failed'
from payments.refunds f
cross join lateral (
  select
    count(*) filter (where o.event_type = 'refund-requested') as requested,
    count(*) filter (where o.event_type = 'refund-processed') as processed,
    count(*) filter (where o.event_type = 'refund-failed') as failed
  from payments.outbox o
  where o.aggregate_id = f.payment_id and o.payload ->> 'refundId' = f.refund_id::text
) t
where t.requested > 1 or t.failed <> (f.status = 'FAILED')::int
  or t.processed not between (f.status = 'PROCESSED')::int and (f.status in ('PROCESSED', 'FAILED'))::int
union all
select
  d.payment_id, 'dispute_mistold', d.dispute_id,
  'dispute ' || d.processor_reference || ' is ' || d.status || ': told ' || t.opened || ' times that it was opened, '
  || t.closed || ' times that it was closed'
from payments.disputes d
cross join lateral (
  select
    count(*) filter (where o.event_type = 'dispute-opened') as opened,
    count(*) filter (where o.event_type = 'dispute-closed') as closed
  from payments.outbox o
  where o.aggregate_id = d.payment_id and o.payload ->> 'disputeId' = d.dispute_id::text
) t
where t.opened <> 1 or t.closed <> (d.closed_at is not null)::int
union all
select o.aggregate_id, 'told_of_nothing', o.event_id, 'published ' || o.event_type || ' of what is not there'
from payments.outbox o
where (
    o.event_type in ('refund-processed', 'refund-failed')
    and not exists (
      select from payments.refunds f where f.payment_id = o.aggregate_id and f.refund_id::text = o.payload ->> 'refundId'
    )
  ) or (
    o.event_type in ('dispute-opened', 'dispute-closed')
    and not exists (
      select from payments.disputes d where d.payment_id = o.aggregate_id and d.dispute_id::text = o.payload ->> 'disputeId'
    )
  )
union all
-- Stripe's answer to a call, and that it was answered, are one transaction.
select c.payment_id, 'answer_lost', c.subject_id, c.operation || ' is ' || c.outcome || ', and the answer is not in the inbox'
from payments.stripe_requests c
where c.state = 'answered' and c.outcome in ('answered', 'declined', 'refused')
  and not exists (select from payments.inbox i where i.payment_id = c.payment_id and i.source = 'stripe-api')
union all
select p.payment_id, 'stripe_unasked', p.payment_id, p.status || ', and Stripe was neither asked nor heard'
from payments.payments p
where p.status in ('ACTION_REQUIRED', 'PROCESSING', 'AUTHORIZED', 'CAPTURING', 'SUCCEEDED')
  and not exists (select from payments.stripe_requests c where c.payment_id = p.payment_id)
  and not exists (select from payments.inbox i where i.payment_id = p.payment_id)
union all
select p.payment_id, 'refunded_off', p.payment_id, 'refunded ' || p.amount_refunded || ', its refunds say ' || coalesce(sum(f.amount), 0)
from payments.payments p
left join payments.refunds f on f.payment_id = p.payment_id and f.status = 'PROCESSED' and p.amount_captured > 0
group by p.payment_id, p.amount_refunded
having p.amount_refunded <> coalesce(sum(f.amount), 0)
union all
select p.payment_id, 'reserved_off', p.payment_id, 'reserved ' || p.amount_reserved || ', its refunds say ' || coalesce(sum(f.amount), 0)
from payments.payments p
left join payments.refunds f on f.payment_id = p.payment_id and f.status <> 'FAILED'
group by p.payment_id, p.amount_reserved
having p.amount_reserved <> coalesce(sum(f.amount), 0)
union all
select p.payment_id, 'disputed_off', p.payment_id, 'disputed: ' || p.disputed || ', its disputes say ' || (not p.disputed)
from payments.payments p
where p.disputed <> exists (
  select from payments.disputes d where d.payment_id = p.payment_id and (d.closed_at is null or d.status = 'lost')
)
union all
select p.payment_id, 'events_misnumbered', p.payment_id, 'events ' || count(o.outbox_id) || ', allotted ' || p.last_sequence
from payments.payments p
left join payments.outbox o on o.aggregate_id = p.payment_id
group by p.payment_id, p.last_sequence
having count(o.outbox_id) <> p.last_sequence or max(o.sequence) is distinct from p.last_sequence
union all
select p.payment_id, 'history_off', p.payment_id, p.status || ', its history says ' || h.to_status
from payments.payments p
cross join lateral (
  select w.to_status from payments.payment_history w where w.payment_id = p.payment_id order by w.history_id desc limit 1
) h
where h.to_status <> p.status;
comment on view payments.imbalances is
  'Each disagreement of our own books, several a payment where they are; payments.audit_imbalances sums them up.';

create or replace view payments.audit_imbalances as
select
  i.payment_id,
  (array_agg(i.imbalance order by array_position(payments.imbalance_kinds(), i.kind), i.subject_id))[1] as imbalance,
  (array_agg(i.kind order by array_position(payments.imbalance_kinds(), i.kind), i.subject_id))[1] as kind,
  (array_agg(i.imbalance order by array_position(payments.imbalance_kinds(), i.kind), i.subject_id))[2:] as also
from payments.imbalances i
group by i.payment_id;
comment on view payments.audit_imbalances is
  'Empty when our own books agree with themselves: no intent that nobody works on, no outcome untold, no sum that is off.';
comment on column payments.audit_imbalances.also is 'What else is off about this payment, mostly by the same cause.';

-- The same of some payments, at a cost that does not depend on how many others there are: by indexes alone, but for the commands
-- that wait in the queues, which are read once; planned each time, for a plan made while the tables were empty must not outlive that.
create function payments.imbalances_of(payment_ids uuid[])
returns table (payment_id uuid, imbalance text, kind text, also text[])
language sql stable rows 10
set enable_seqscan = off
set enable_mergejoin = off
set plan_cache_mode = force_custom_plan
set jit = off
begin atomic
  select a.payment_id, a.imbalance, a.kind, a.also from payments.audit_imbalances a
  where a.payment_id = any (imbalances_of.payment_ids);
end;
comment on function payments.imbalances_of is 'payments.audit_imbalances of these payments only.';

-- The audit that runs all the time: what it has found, and how far it has come.
create table payments.audit_findings (
  kind text not null,
  subject text not null,
  payment_id uuid,
  finding text not null,
  also text[] not null default '{}',
  first_seen_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  primary key (kind, subject)
);
create index audit_findings_by_payment on payments.audit_findings (payment_id);
comment on table payments.audit_findings is
  'What the audit has found and is still so: the rows of payments.audit_imbalances, as of the audit''s last look at the payment.';
comment on column payments.audit_findings.subject is 'What it is about: the payment''s id.';

create table payments.audit_progress (
  singleton boolean primary key default true check (singleton),
  seen pg_snapshot not null,
  lap_at uuid,
  lap_began_at timestamptz not null default now(),
  last_lap_began_at timestamptz,
  ran_at timestamptz not null default now()
);
comment on table payments.audit_progress is 'How far the audit has come. One row.';
comment on column payments.audit_progress.seen is 'Payments whose events are visible here were looked at since they changed.';
comment on column payments.audit_progress.lap_at is
  'All payments up to this one were looked at in this lap; null: a lap is to begin. last_lap_began_at: nothing is unseen for longer.';

revoke all on function payments.imbalance_kinds, payments.imbalances_of from public;
grant execute on function payments.imbalance_kinds, payments.imbalances_of
to payments_api, payments_relay, payments_worker, payments_readonly;
grant select on payments.imbalances, payments.audit_findings, payments.audit_progress
to payments_api, payments_relay, payments_worker;
grant insert, update, delete on payments.audit_findings to payments_worker;
grant insert, update on payments.audit_progress to payments_worker;
grant select on payments.imbalances, payments.audit_findings, payments.audit_progress
to payments_readonly;
