-- name: read_progress
-- How far jobs have come, and the database's time.
select
  coalesce((select jsonb_object_agg(job, position::text) from payments.reconciler_progress where job = any(%(jobs)s)), '{}'),
  clock_timestamp();

-- name: take_turn
-- A job's turn, for one process of all; nothing when its time has not come, or another has it.
insert into payments.reconciler_progress as p (job, position)
values (%(job)s, clock_timestamp() + make_interval(secs => %(turn_s)s::float8))
on conflict (job) do update set position = excluded.position, updated_at = clock_timestamp()
where p.position <= clock_timestamp() or %(at_once)s::boolean
returning position;

-- name: renew_turn
-- The turn ends, or the next one begins, so long from now. Nothing when it was lost, and another has it.
update payments.reconciler_progress
set position = clock_timestamp() + make_interval(secs => %(turn_s)s::float8), updated_at = clock_timestamp()
where job = %(job)s and position = %(end)s::timestamptz
returning position;

-- name: begin_progress
-- The first step of a job; nothing when another process has made it.
insert into payments.reconciler_progress (job, position) values (%(job)s, %(position)s::timestamptz)
on conflict (job) do nothing;

-- name: move_progress
-- The next step of a job; nothing when another process was quicker.
update payments.reconciler_progress
set position = %(position)s::timestamptz, updated_at = clock_timestamp()
where job = %(job)s and position = %(before)s::timestamptz;

-- name: guard_plans
-- For the transaction: by index wherever there is one, whatever a table was like when its plan was made; and no long wait for
-- a lock that somebody else keeps.
select set_config('enable_seqscan', 'off', true), set_config('lock_timeout', %(lock_wait)s, true);

-- name: watch_at_once
-- For an operator: every watch is due; one that somebody has in hand is looked at twice, which changes nothing.
update payments.watches set next_look_at = clock_timestamp() where next_look_at > clock_timestamp();

-- name: claim_watches
-- Watches whose time has come, each for one process and for so long, and all that a look depends on.
with due as materialized (
  select payment_id from payments.watches
  where next_look_at <= clock_timestamp()
    and (looks > 0 or next_look_at <= clock_timestamp() - make_interval(secs => %(first_look_s)s::float8))
  order by next_look_at limit %(rows_max)s
  for update skip locked
), claimed as (
  update payments.watches w
  set next_look_at = clock_timestamp() + make_interval(secs => %(lease_s)s::float8)
  from due where w.payment_id = due.payment_id
  returning w.payment_id, w.looks, w.next_look_at
)
select
  c.payment_id, p.status, p.processor_payment_intent, c.looks, p.updated_at, p.capture_before, p.next_action ->> 'type',
  p.order_id = p.cart_id,
  exists (
    select from payments.stripe_requests s
    where s.payment_id = p.payment_id and s.operation = 'cancel_payment_intent' and s.outcome = 'answered'
  ),
  exists (
    select from payments.refunds f
    where f.payment_id = p.payment_id and f.reason = 'compensation' and f.status <> 'FAILED'
  ),
  coalesce((
    select jsonb_agg(jsonb_build_array(f.refund_id, f.status, f.processor_reference))
    from payments.refunds f where f.payment_id = p.payment_id
  ), '[]'),
  c.next_look_at::text,
  coalesce((select max(h.history_id) from payments.payment_history h where h.payment_id = p.payment_id), 0),
  clock_timestamp()
from claimed c
join payments.payments p using (payment_id);

-- name: watch_again
-- The next look; nothing when the payment has changed meanwhile, for then its watch began anew.
update payments.watches
set looks = %(looks)s, next_look_at = clock_timestamp() + make_interval(secs => %(pause_s)s::float8)
where payment_id = %(payment_id)s and next_look_at = %(claimed)s::timestamptz;

-- name: end_watch
-- Nothing is open at Stripe any more; nothing when the payment has changed meanwhile.
delete from payments.watches where payment_id = %(payment_id)s and next_look_at = %(claimed)s::timestamptz;

-- name: lock_payment
-- A payment for a command or a change.
select
  order_id, customer_id, amount, currency, status, capture_id, amount_to_capture, created_at, clock_timestamp()
from payments.payments where payment_id = %(payment_id)s::uuid
for update;

-- name: find_refund
-- What a refund's command says; nothing of one that an operator has given up: the last letter about it was discarded.
select f.amount, f.currency, f.reason, f.created_at
from payments.refunds f
left join lateral (
  select d.resolution from payments.dead_letters d
  where d.payment_id = f.payment_id and d.origin = 'queue:refund_requested' and d.payload ->> 'refundId' = f.refund_id::text
  order by d.dead_letter_id desc limit 1
) letter on true
where f.refund_id = %(refund_id)s::uuid and coalesce(not starts_with(letter.resolution, 'discarded:'), true);

-- name: void_orphan
-- A hold that no order has claimed, if that is still so.
update payments.payments
set status = 'VOIDING', last_sequence = last_sequence + 1
where payment_id = %(payment_id)s::uuid and status = 'AUTHORIZED' and order_id = cart_id
returning order_id, amount, currency, last_sequence, updated_at;

-- name: add_history
-- What the reconciler has done to a payment, and why.
insert into payments.payment_history (payment_id, signal, source, from_status, to_status, decision, why)
values (%(payment_id)s, %(signal)s, 'reconciler', %(from_status)s, %(to_status)s, 'applied', %(why)s);

-- name: has_doubtful
-- Whether there is any call to reconcile.
select from payments.stripe_requests where state = 'to_reconcile' limit 1;

-- name: find_doubtful
-- Calls whose key is of no use any more, some time after the last attempt, and what our books say of their subjects. Under a
-- young key Stripe has kept its 500, which is all that an attempt still on its way can get. Under an old one, or where it said
-- something else, such an attempt may take effect: until its lease and its time limit have both run out.
-- A restored backup may have lost attempts; none was made before its payment was.
-- First those to be swept for, or (not `swept`) those to be asked for: neither kind may hide the other behind its first rows.
select
  c.call_id, c.payment_id, c.subject_id, c.operation, p.status, p.processor_payment_intent, p.capture_id, f.status,
  least(c.first_attempt_at, p.created_at), q.quiet_at, c.parameters ->> 'cancellation_reason', c.swept_to
from payments.stripe_requests c
join payments.payments p using (payment_id)
left join payments.refunds f on f.refund_id = c.subject_id and c.operation = 'create_refund'
cross join lateral (
  select coalesce(c.last_attempt_at, c.created_at)
    + make_interval(secs => %(quiet_s)s::float8 + case
      when c.http_status >= 500 and c.first_attempt_at > clock_timestamp() - make_interval(secs => %(key_s)s::float8) then 0
      else %(attempt_s)s::float8
    end)
) q (quiet_at)
where c.state = 'to_reconcile' and q.quiet_at <= clock_timestamp()
order by
  (c.operation = 'create_payment_intent' and p.processor_payment_intent is null) <> %(swept)s::boolean, c.call_id
limit %(rows_max)s;

-- name: begin_sweep
-- A new sweep looks for these calls from its beginning on, and for no other.
update payments.stripe_requests
set swept_to = case when call_id = any(%(call_ids)s) then %(position)s::timestamptz end
where state = 'to_reconcile';

-- name: move_sweep
-- A part of a sweep was looked through for these calls; one that had missed an earlier part has missed this one, too.
update payments.stripe_requests set swept_to = %(position)s::timestamptz
where call_id = any(%(call_ids)s) and swept_to = %(before)s::timestamptz;

-- name: close_call
-- What became of the call is known: its effect was found, is wanted no more, or certainly never was.
update payments.stripe_requests
set state = 'answered', outcome = %(outcome)s, answered_at = clock_timestamp()
where call_id = %(call_id)s and state = 'to_reconcile';

-- name: park_call
-- An operator must look.
update payments.stripe_requests set state = 'parked', last_error = %(why)s
where call_id = %(call_id)s and state = 'to_reconcile';

-- name: leave_dead_letter
-- What an operator finds of a parked call.
insert into payments.dead_letters (origin, message_id, payment_id, payload, headers, attempts, error)
select %(origin)s, 'call/' || c.call_id, c.payment_id, %(payload)s::jsonb, null, c.attempts, %(why)s
from payments.stripe_requests c where c.call_id = %(call_id)s
on conflict (origin, message_id) do update
set attempts = excluded.attempts, error = excluded.error, died_at = clock_timestamp(), resolved_at = null, resolution = null;

-- name: first_payment_at
-- Since when there are payments at all.
select created_at from payments.payments order by payment_id limit 1;

-- name: known_events
-- Which of these events the webhooks have brought.
select message_id from payments.inbox where source = 'stripe-webhook' and message_id = any(%(event_ids)s);

-- name: known_payments
-- What our books say of these payments; null of those whose PaymentIntent they do not know.
select payment_id, case when processor_payment_intent is not null or status not in ('REQUESTED', 'VOIDING') then status end
from payments.payments where payment_id = any(%(payment_ids)s);

-- name: known_objects
-- Which of these refunds and disputes our books have, and in which state.
select processor_reference, status from payments.refunds where processor_reference = any(%(references)s)
union all
select processor_reference, status from payments.disputes where processor_reference = any(%(references)s);

-- name: read_listing
-- After a restore, since when Stripe has to be looked at, and how far that has come; nothing when there was none.
select
  c.stripe_unlisted_since, heard.position, compared.position, objects.position, clock_timestamp()
from payments.cluster c
left join payments.reconciler_progress heard on heard.job = 'listing/heard'
left join payments.reconciler_progress compared on compared.job = 'listing/compared'
left join payments.reconciler_progress objects on objects.job = 'listing/objects'
where c.stripe_unlisted_since is not null;

-- name: is_unlisted
-- Whether there is such a look at Stripe to be made.
select from payments.cluster where stripe_unlisted_since is not null;

-- name: count_unweighed
-- What came until then and nobody has weighed yet, and whatever was fetched for that. A refund that waits for one of ours to end
-- is not waited for: ours ends only once calls are made again.
select count(*) from payments.inbox
where processed_at is null and (received_at <= %(until)s::timestamptz or source = 'reconciler')
  and coalesce(last_error, '') not like %(waits)s;

-- name: end_listing
-- Everything that happened at Stripe since the backup is in our books, unless another restore has begun meanwhile.
update payments.cluster set stripe_unlisted_since = null
where stripe_unlisted_since = %(since)s::timestamptz
  and exists (
    select from payments.reconciler_progress where job = 'listing/compared' and position = %(compared_at)s::timestamptz
  );

-- name: lost_creates
-- Payments to be charged, or voided before that, for which no command is on its way, and nobody owns the call. What an operator
-- has discarded is not to be done; a void of it is.
with candidates as materialized (
  select p.payment_id from payments.payments p
  where p.status in ('REQUESTED', 'VOIDING') and p.processor_payment_intent is null
    and p.updated_at < clock_timestamp() - make_interval(secs => %(after_s)s::float8)
    and not exists (
      select from payments.stripe_requests c
      where c.subject_id = p.payment_id and c.operation = 'create_payment_intent'
        and (c.state in ('to_reconcile', 'parked') or c.outcome not in ('absent', 'superseded'))
    )
    and not exists (select from payments.inbox i where i.payment_id = p.payment_id and i.processed_at is null)
    and not exists (
      select from payments.dead_letters d
      where d.payment_id = p.payment_id
        and (
          d.resolved_at is null
          or (starts_with(d.resolution, 'discarded:') and p.status = 'REQUESTED' and d.origin = 'queue:payment_requested')
        )
    )
    and not exists (
      select from payments.outbox o
      where o.aggregate_id = p.payment_id and o.event_type = 'payment-requested'
        and not payments.is_dispatched((select payments.last_batch('payment_requested')), o.xid, o.outbox_id)
    )
  order by p.status, p.payment_id limit %(looked_at_max)s
)
select c.payment_id, c.payment_id from candidates c
where not exists (select from pgmq.q_payment_requested q where q.message ->> 'paymentId' = c.payment_id::text)
limit %(rows_max)s;

-- name: lost_captures
-- Holds to be captured, likewise.
with candidates as materialized (
  select p.payment_id, p.capture_id from payments.payments p
  where p.status = 'CAPTURING'
    and p.updated_at < clock_timestamp() - make_interval(secs => %(after_s)s::float8)
    and not exists (
      select from payments.stripe_requests c
      where c.subject_id = p.capture_id and c.operation = 'capture_payment_intent'
        and (c.state in ('to_reconcile', 'parked') or c.outcome not in ('absent', 'superseded'))
    )
    and not exists (select from payments.inbox i where i.payment_id = p.payment_id and i.processed_at is null)
    and not exists (
      select from payments.dead_letters d
      where d.payment_id = p.payment_id
        and (
          d.resolved_at is null
          or (
            starts_with(d.resolution, 'discarded:') and d.origin = 'queue:capture_requested'
            and d.payload ->> 'captureId' = p.capture_id::text
          )
        )
    )
    and not exists (
      select from payments.outbox o
      where o.aggregate_id = p.payment_id and o.event_type = 'capture-requested'
        and not payments.is_dispatched((select payments.last_batch('capture_requested')), o.xid, o.outbox_id)
    )
  order by p.payment_id limit %(looked_at_max)s
)
select c.payment_id, c.capture_id from candidates c
where not exists (select from pgmq.q_capture_requested q where q.message ->> 'captureId' = c.capture_id::text)
limit %(rows_max)s;

-- name: lost_cancels
-- PaymentIntents to be cancelled, likewise. What Stripe has refused is looked at by the payment's watch.
with candidates as materialized (
  select p.payment_id from payments.payments p
  where p.status = 'VOIDING' and p.processor_payment_intent is not null
    and p.updated_at < clock_timestamp() - make_interval(secs => %(after_s)s::float8)
    and not exists (
      select from payments.stripe_requests c
      where c.subject_id = p.payment_id and c.operation = 'cancel_payment_intent'
        and (c.state in ('to_reconcile', 'parked') or c.outcome not in ('absent', 'superseded'))
    )
    and not exists (select from payments.inbox i where i.payment_id = p.payment_id and i.processed_at is null)
    and not exists (select from payments.dead_letters d where d.payment_id = p.payment_id and d.resolved_at is null)
    and not exists (
      select from payments.outbox o
      where o.aggregate_id = p.payment_id and o.event_type = 'void-requested'
        and not payments.is_dispatched((select payments.last_batch('void_requested')), o.xid, o.outbox_id)
    )
  order by p.payment_id limit %(looked_at_max)s
)
select c.payment_id, c.payment_id from candidates c
where not exists (select from pgmq.q_void_requested q where q.message ->> 'paymentId' = c.payment_id::text)
limit %(rows_max)s;

-- name: lost_refunds
-- Refunds to be made, likewise.
with candidates as materialized (
  select f.payment_id, f.refund_id from payments.refunds f
  where f.status = 'REQUESTED'
    and f.updated_at < clock_timestamp() - make_interval(secs => %(after_s)s::float8)
    and not exists (
      select from payments.stripe_requests c
      where c.subject_id = f.refund_id and c.operation = 'create_refund'
        and (c.state in ('to_reconcile', 'parked') or c.outcome not in ('absent', 'superseded'))
    )
    and not exists (select from payments.inbox i where i.payment_id = f.payment_id and i.processed_at is null)
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
    and not exists (
      select from payments.outbox o
      where o.aggregate_id = f.payment_id and o.event_type = 'refund-requested'
        and not payments.is_dispatched((select payments.last_batch('refund_requested')), o.xid, o.outbox_id)
    )
  order by f.updated_at limit %(looked_at_max)s
)
select c.payment_id, c.refund_id from candidates c
where not exists (select from pgmq.q_refund_requested q where q.message ->> 'refundId' = c.refund_id::text)
limit %(rows_max)s;

-- name: unpark_voids
-- Leaves to the sweep what the parked call of a payment to be voided has made, once no operator has the call in hand: to his
-- letter, were it open, belongs what follows. First the payments are locked, then their calls; who is locked already comes later.
with given_up as materialized (
  select c.call_id
  from payments.payments p
  join payments.stripe_requests c
    on c.subject_id = p.payment_id and c.operation = 'create_payment_intent' and c.state = 'parked'
  where p.status = 'VOIDING' and p.processor_payment_intent is null
    and p.updated_at < clock_timestamp() - make_interval(secs => %(after_s)s::float8)
    and not exists (select from payments.dead_letters d where d.payment_id = p.payment_id and d.resolved_at is null)
  order by p.payment_id limit %(rows_max)s
  for update of p, c skip locked
)
update payments.stripe_requests c set state = 'to_reconcile', swept_to = null
from given_up g where c.call_id = g.call_id
returning c.payment_id;

-- name: unpark_refunds
-- Likewise the call of a refund that an operator has given up: whether Stripe has made it decides how it ends. Not again, once
-- the reconciler has left it to an operator itself, and that letter was discarded, too.
with given_up as materialized (
  select c.call_id
  from payments.refunds f
  join payments.payments p on p.payment_id = f.payment_id
  join payments.stripe_requests c
    on c.subject_id = f.refund_id and c.operation = 'create_refund' and c.state not in ('answered', 'to_reconcile')
  cross join lateral (
    select d.message_id, d.resolution, d.resolved_at from payments.dead_letters d
    where d.payment_id = f.payment_id and d.origin = 'queue:refund_requested' and d.payload ->> 'refundId' = f.refund_id::text
    order by d.dead_letter_id desc limit 1
  ) letter
  where f.status = 'REQUESTED' and starts_with(letter.resolution, 'discarded:') and letter.message_id <> 'call/' || c.call_id
    and letter.resolved_at < clock_timestamp() - make_interval(secs => %(after_s)s::float8)
    and not exists (select from payments.dead_letters d where d.payment_id = f.payment_id and d.resolved_at is null)
    and not exists (select from pgmq.q_refund_requested q where q.message ->> 'refundId' = f.refund_id::text)
  order by f.refund_id limit %(rows_max)s
  for update of p, c skip locked
)
update payments.stripe_requests c set state = 'to_reconcile', swept_to = null
from given_up g where c.call_id = g.call_id
returning c.payment_id;

-- name: given_up_refunds
-- Refunds that an operator has given up, and that Stripe has not made: no call of theirs was made, or all were proved absent.
-- A refund of somebody else's that waits for room is no news of them. Money that came late must go back: a compensation is given
-- up only for such a one.
select f.payment_id, f.refund_id, letter.dead_letter_id
from payments.refunds f
join payments.payments p on p.payment_id = f.payment_id and p.status <> 'CONFLICTED'
cross join lateral (
  select d.dead_letter_id, d.resolution, d.resolved_at from payments.dead_letters d
  where d.payment_id = f.payment_id and d.origin = 'queue:refund_requested' and d.payload ->> 'refundId' = f.refund_id::text
  order by d.dead_letter_id desc limit 1
) letter
where f.status = 'REQUESTED' and starts_with(letter.resolution, 'discarded:')
  and letter.resolved_at < clock_timestamp() - make_interval(secs => %(after_s)s::float8)
  and not exists (select from payments.dead_letters d where d.payment_id = f.payment_id and d.resolved_at is null)
  and not exists (
    select from payments.stripe_requests c
    where c.subject_id = f.refund_id and c.operation = 'create_refund' and (c.state <> 'answered' or c.outcome <> 'absent')
  )
  and not exists (
    select from payments.inbox i
    where i.payment_id = f.payment_id and i.processed_at is null and coalesce(i.last_error, '') not like %(waits)s
  )
  and (
    f.reason is distinct from 'compensation'
    or exists (
      select from payments.inbox i
      where i.payment_id = f.payment_id and i.processed_at is null and i.last_error like %(waits)s
    )
  )
  and not exists (select from pgmq.q_refund_requested q where q.message ->> 'refundId' = f.refund_id::text)
order by f.refund_id limit %(rows_max)s;

-- name: watch_unwatched
-- Payments whose PaymentIntent we know, and whose answer went by without moving them.
insert into payments.watches (payment_id, next_look_at)
select p.payment_id, clock_timestamp()
from payments.payments p
where p.status = 'REQUESTED' and p.processor_payment_intent is not null
  and p.updated_at < clock_timestamp() - make_interval(secs => %(after_s)s::float8)
  and not exists (select from payments.watches w where w.payment_id = p.payment_id)
order by p.payment_id limit %(rows_max)s
on conflict do nothing;
