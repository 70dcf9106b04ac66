-- Stripe's statuses of a dispute whose end is appealed (API version 2026-10-28.endive). The view first: whoever reads it is waited for
-- before writers have to wait.

set local lock_timeout = '5s';
set local statement_timeout = '5min';

create or replace view payments.imbalances as
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
  and not exists (
    select from payments.dead_letters d
    where d.payment_id = p.payment_id
      and (d.resolved_at is null or (d.origin = 'queue:payment_requested' and starts_with(d.resolution, 'discarded:')))
  )
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
  and not exists (
    select from payments.dead_letters d
    where d.payment_id = f.payment_id
      and (
        d.resolved_at is null
        or (
          starts_with(d.resolution, 'discarded:') and d.origin = 'queue:refund_requested'
          and d.payload ->> 'refundId' = f.refund_id::text
        )
      )
  )
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
  and not exists (select from payments.forgotten g where g.payment_id = p.payment_id)
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
where (
    t.requested > 1 or t.failed <> (f.status = 'FAILED')::int
    or t.processed not between (f.status = 'PROCESSED')::int and (f.status in ('PROCESSED', 'FAILED'))::int
  )
  -- One that was processed and forgotten may fail even so; that is told of then.
  and not exists (
    select from payments.forgotten g
    where g.payment_id = f.payment_id and (f.updated_at < g.forgotten_at or (t.failed = 1 and f.created_at < g.forgotten_at))
  )
union all
select
  d.payment_id, 'dispute_mistold', d.dispute_id,
  'dispute ' || d.processor_reference || ' is ' || d.status || ': told ' || t.opened || ' times that it was opened, '
  || coalesce('its end last as ' || t.ended, 'and no end of it')
from payments.disputes d
cross join lateral (
  select
    count(*) filter (where o.event_type = 'dispute-opened') as opened,
    (array_agg(o.payload ->> 'status' order by o.sequence desc) filter (where o.event_type = 'dispute-closed'))[1] as ended
  from payments.outbox o
  where o.aggregate_id = d.payment_id and o.payload ->> 'disputeId' = d.dispute_id::text
) t
where (
    t.opened <> 1
    -- What has ended and is open again is under appeal.
    or t.ended is distinct from case when d.closed_at is not null then d.status when starts_with(d.status, 'appeal_') then t.ended end
  )
  and not exists (
    select from payments.forgotten g where g.payment_id = d.payment_id and d.created_at < g.forgotten_at
  )
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
  and not exists (
    select from payments.forgotten g where g.payment_id = c.payment_id and c.answered_at < g.forgotten_at
  )
union all
select p.payment_id, 'stripe_unasked', p.payment_id, p.status || ', and Stripe was neither asked nor heard'
from payments.payments p
where p.status in ('ACTION_REQUIRED', 'PROCESSING', 'AUTHORIZED', 'CAPTURING', 'SUCCEEDED')
  and not exists (select from payments.stripe_requests c where c.payment_id = p.payment_id)
  and not exists (select from payments.inbox i where i.payment_id = p.payment_id)
  and not exists (select from payments.forgotten g where g.payment_id = p.payment_id)
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
left join payments.forgotten g on g.payment_id = p.payment_id
group by p.payment_id, p.last_sequence, g.events
having count(o.outbox_id) <> p.last_sequence - coalesce(g.events, 0)
  or coalesce(max(o.sequence), g.events) is distinct from p.last_sequence
union all
select p.payment_id, 'history_off', p.payment_id, p.status || ', its history says ' || h.to_status
from payments.payments p
cross join lateral (
  select w.to_status from payments.payment_history w where w.payment_id = p.payment_id order by w.history_id desc limit 1
) h
where h.to_status <> p.status
union all
select
  b.payment_id, 'balance_of_nobody', b.payment_id,
  'Stripe moved ' || b.moved || ' ' || b.currency || ' (' || b.source || ') for no payment of ours'
from payments.balance_sums b
where not exists (select from payments.payments p where p.payment_id = b.payment_id)
union all
-- Money that came too late was never counted as captured; it is what its refunds give back.
select
  p.payment_id, 'balance_captured_off', p.payment_id,
  'Stripe captured ' || b.moved || ' ' || b.currency || ' (' || b.source || '), our books say ' || o.captured || ' ' || p.currency
from payments.balance_sums b
join payments.payments p on p.payment_id = b.payment_id
cross join lateral (
  select case
    when p.amount_captured > 0 then p.amount_captured
    else coalesce((
      select sum(f.amount) from payments.refunds f
      where f.payment_id = p.payment_id and f.reason = 'compensation' and f.status <> 'FAILED'
    ), 0)
  end as captured
) o
where b.about = 'charge' and p.status in ('SUCCEEDED', 'FAILED', 'VOIDED', 'EXPIRED') and p.updated_at < b.settled_at
  and (b.moved <> o.captured or b.currency <> p.currency)
union all
-- What is pending may have moved, or not yet.
select
  p.payment_id, 'balance_refunded_off', coalesce(f.refund_id, p.payment_id),
  'Stripe gave back ' || -b.moved || ' ' || b.currency || ' (' || b.source || '), our books say '
  || coalesce(f.status || ' ' || f.amount || ' ' || f.currency, 'nothing of it')
from payments.balance_sums b
join payments.payments p on p.payment_id = b.payment_id
left join payments.refunds f on f.processor_reference = b.source
where b.about = 'refund' and p.status <> 'CONFLICTED' and coalesce(f.updated_at, p.updated_at) < b.settled_at
  and (
    b.currency <> p.currency
    or -b.moved <> case
      when f.refund_id is null or f.status = 'FAILED' then 0
      when f.status = 'PROCESSED' or b.moved <> 0 then f.amount
      else 0
    end
  )
union all
-- An inquiry moves nothing. What was won comes back within days.
select
  p.payment_id, 'balance_disputed_off', coalesce(d.dispute_id, p.payment_id),
  'Stripe withdrew ' || -b.moved || ' ' || b.currency || ' (' || b.source || '), our books say '
  || coalesce(d.status || ' ' || d.amount || ' ' || d.currency, 'nothing of it')
from payments.balance_sums b
join payments.payments p on p.payment_id = b.payment_id
left join payments.disputes d on d.processor_reference = b.source
where b.about = 'dispute' and p.status <> 'CONFLICTED' and coalesce(d.updated_at, p.updated_at) < b.settled_at
  and (
    b.currency <> coalesce(d.currency, b.currency)
    or -b.moved <> case
      when d.status in ('needs_response', 'under_review', 'appeal_needs_response', 'appeal_under_review', 'lost') then d.amount
      when d.status = 'won' and b.moved <> 0 and d.updated_at > now() - interval '7 days' then d.amount
      else 0
    end
  );

-- The new check allows more than the old, and disputes are few: to read them all takes no time.
alter table payments.disputes
-- squawk-ignore ban-drop-constraint
drop constraint disputes_status_check,
-- squawk-ignore constraint-missing-not-valid
add constraint disputes_status_check check (status in (
  'warning_needs_response', 'warning_under_review', 'needs_response', 'under_review', 'appeal_needs_response',
  'appeal_under_review', 'warning_closed', 'prevented', 'won', 'lost'
));

create or replace function payments.dispute_rank(status text) returns int
language sql immutable strict parallel safe
return coalesce(
  array_position(
    array[
      'warning_needs_response', 'warning_under_review', 'needs_response', 'under_review', 'appeal_needs_response',
      'appeal_under_review'
    ],
    status
  ),
  7
);
comment on function payments.dispute_rank is
'How far a dispute has come; its ends are all equally far. It never goes back, but from an end to an appeal.';

create or replace function payments.guard_dispute() returns trigger
language plpgsql as $$
begin
  if (new.dispute_id, new.payment_id, new.processor_reference, new.amount, new.currency, new.reason, new.opened_at, new.created_at)
    is distinct from
    (old.dispute_id, old.payment_id, old.processor_reference, old.amount, old.currency, old.reason, old.opened_at, old.created_at)
  then
    raise exception 'what is disputed never changes: dispute %', old.processor_reference using errcode = 'check_violation';
  end if;
  if payments.dispute_rank(new.status) < payments.dispute_rank(old.status)
    and not (old.closed_at is not null and starts_with(new.status, 'appeal_'))
  then
    raise exception 'dispute % cannot go from % back to %', old.processor_reference, old.status, new.status
      using errcode = 'check_violation';
  end if;
  return new;
end $$;
