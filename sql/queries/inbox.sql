-- name: receive
-- Keeps a message once; a repetition changes nothing.
insert into payments.inbox (source, message_id, message_type, payment_id, payload)
values (%(source)s, %(message_id)s, %(message_type)s, %(payment_id)s, %(payload)s::jsonb)
on conflict (source, message_id) do nothing;

-- name: guard_transaction
-- For the transaction: row by row, by the index that has the order. A plan made while a table was nearly empty must not outlive
-- that, and no backlog is gathered, sorted or hashed for the sake of a few rows. And no long wait for a lock that somebody
-- else keeps.
select
  set_config('enable_seqscan', 'off', true),
  set_config('enable_bitmapscan', 'off', true),
  set_config('enable_sort', 'off', true),
  set_config('enable_hashjoin', 'off', true),
  set_config('enable_mergejoin', 'off', true),
  set_config('lock_timeout', %(lock_wait)s, true);

-- name: claim_new
-- Rows that nobody has weighed yet, above the low-water mark, each for one recorder.
select
  inbox_id, source, message_id, message_type, payment_id, payload, attempts,
  extract(epoch from clock_timestamp() - received_at)::float8
from payments.inbox
where processed_at is null and next_attempt_at is null and inbox_id > %(floor_id)s
order by inbox_id
limit %(rows_max)s
for update skip locked;

-- name: list_due
-- Rows that were put off until now, from a floor on, each to be claimed alone; and the floor of the next look, which trails.
with due as materialized (
  select inbox_id, next_attempt_at from payments.inbox
  where processed_at is null and next_attempt_at >= %(floor)s::timestamptz and next_attempt_at <= statement_timestamp()
  order by next_attempt_at limit %(rows_max)s::int
)
select
  coalesce(array_agg(inbox_id order by next_attempt_at), '{}'),
  (
    case when count(*) < %(rows_max)s::int then statement_timestamp() else max(next_attempt_at) end
    - make_interval(secs => %(trail_s)s::float8)
  )::text
from due;

-- name: claim_one
-- One row, unless another recorder has it or it is done or put off.
select
  inbox_id, source, message_id, message_type, payment_id, payload, attempts,
  extract(epoch from clock_timestamp() - received_at)::float8
from payments.inbox
where inbox_id = %(inbox_id)s and processed_at is null and (next_attempt_at is null or next_attempt_at <= now())
for update skip locked;

-- name: claim_leased
-- Rows put off by the recorder that asks, which now has news of them.
select
  inbox_id, source, message_id, message_type, payment_id, payload, attempts,
  extract(epoch from clock_timestamp() - received_at)::float8
from payments.inbox
where inbox_id = any(%(inbox_ids)s) and processed_at is null
for update skip locked;

-- name: finish
-- Rows that were weighed, and what came of each, place by place. No join: its plan degenerates.
update payments.inbox
set
  processed_at = clock_timestamp(),
  outcome = (%(outcomes)s::text[])[array_position(%(ids)s::bigint[], inbox_id)],
  payment_id = coalesce(payment_id, (%(payment_ids)s::uuid[])[array_position(%(ids)s::bigint[], inbox_id)]),
  last_error = (%(whys)s::text[])[array_position(%(ids)s::bigint[], inbox_id)]
where inbox_id = any(%(ids)s::bigint[]);

-- name: supersede
-- The object was fetched instead; nothing when the row is done already.
update payments.inbox
set processed_at = clock_timestamp(), outcome = 'superseded', payment_id = coalesce(payment_id, %(payment_id)s),
  last_error = null
where inbox_id = any(%(inbox_ids)s) and processed_at is null;

-- name: reconsider
-- The rows' PaymentIntent was asked for: they are weighed again soon, after what came of that. Each time counts, and doubles
-- the pause.
update payments.inbox
set payment_id = coalesce(payment_id, %(payment_id)s), attempts = attempts + 1,
  next_attempt_at = clock_timestamp() + make_interval(secs => %(pause_s)s * 2 ^ attempts)
where inbox_id = any(%(inbox_ids)s) and processed_at is null;

-- name: disown
-- The rows turned out to be about somebody else's payment.
update payments.inbox
set processed_at = clock_timestamp(), outcome = 'foreign', last_error = null
where inbox_id = any(%(inbox_ids)s) and processed_at is null;

-- name: put_off
-- The row waits; `burnt` counts towards its end.
update payments.inbox
set next_attempt_at = clock_timestamp() + make_interval(secs => %(pause_s)s), attempts = attempts + %(burnt)s,
  last_error = %(why)s
where inbox_id = %(inbox_id)s and processed_at is null;

-- name: put_off_by_age
-- The row waits as long again as it is old, within bounds; nothing counts towards its end.
update payments.inbox
set next_attempt_at = clock_timestamp() + greatest(
    make_interval(secs => %(pause_s_min)s),
    least(clock_timestamp() - received_at, make_interval(secs => %(pause_s_max)s))
  ),
  last_error = %(why)s
where inbox_id = %(inbox_id)s and processed_at is null;

-- name: bury
-- A dead letter of an inbox row; one that died before is unsettled again.
insert into payments.dead_letters (origin, message_id, payment_id, payload, attempts, error)
select 'inbox', inbox_id::text, coalesce(payment_id, %(payment_id)s), payload, attempts, %(why)s
from payments.inbox where inbox_id = %(inbox_id)s
on conflict (origin, message_id) do update
set attempts = excluded.attempts, error = excluded.error, died_at = clock_timestamp(), resolved_at = null, resolution = null;

-- name: find_payments
-- Which payments these PaymentIntents belong to.
select processor_payment_intent, payment_id from payments.payments
where processor_payment_intent = any(%(intent_ids)s);

-- name: lock_payments
-- Payments for a change, locked in the one order in which everybody locks several.
select
  payment_id, order_id, amount, currency, capture_method, payment_method, status, amount_authorized, amount_captured,
  processor_payment_intent, processor_reference, failure_reason, failure_decline_code, failure_message, next_action,
  capture_before, capture_id, amount_to_capture, amount_reserved, disputed, last_sequence
from payments.payments
where payment_id = any(%(payment_ids)s)
order by payment_id
for update;

-- name: recall
-- What the history of locked payments tells; asked after the lock, so that it has all that was weighed before.
select payment_id, max(history_id), bool_or(to_status = 'ACTION_REQUIRED')
from payments.payment_history
where payment_id = any(%(payment_ids)s)
group by payment_id;

-- name: last_history_id
-- How far a payment's history goes, before its object is fetched.
select coalesce(max(history_id), 0) from payments.payment_history where payment_id = %(payment_id)s;

-- name: change_payment
-- A locked payment as it was decided to be.
update payments.payments
set status = %(status)s, amount_authorized = %(amount_authorized)s, amount_captured = %(amount_captured)s,
  processor_payment_intent = %(processor_payment_intent)s, processor_reference = %(processor_reference)s,
  failure_reason = %(failure_reason)s, failure_decline_code = %(failure_decline_code)s,
  failure_message = %(failure_message)s, next_action = %(next_action)s::jsonb, capture_before = %(capture_before)s,
  disputed = %(disputed)s, last_sequence = %(last_sequence)s
where payment_id = %(payment_id)s;

-- name: read_refunds
-- The refunds of locked payments.
select refund_id, payment_id, amount, currency, reason, status, processor_reference, failure_reason, external
from payments.refunds
where payment_id = any(%(payment_ids)s);

-- name: add_refund
-- A refund that the service makes by itself, or that was made elsewhere.
insert into payments.refunds (
  refund_id, payment_id, amount, currency, reason, status, processor_reference, failure_reason, external
)
values (
  %(refund_id)s, %(payment_id)s, %(amount)s, %(currency)s, %(reason)s, %(status)s, %(processor_reference)s,
  %(failure_reason)s, %(external)s
);

-- name: change_refund
-- A refund as it was decided to be; its trigger keeps the sums of the payment.
update payments.refunds
set status = %(status)s, processor_reference = %(processor_reference)s, failure_reason = %(failure_reason)s
where refund_id = %(refund_id)s;

-- name: read_disputes
-- The disputes of locked payments.
select dispute_id, payment_id, processor_reference, amount, currency, reason, status, opened_at, closed_at
from payments.disputes
where payment_id = any(%(payment_ids)s);

-- name: add_dispute
-- A dispute that we hear of for the first time.
insert into payments.disputes (
  dispute_id, payment_id, processor_reference, amount, currency, reason, status, opened_at, closed_at
)
values (
  %(dispute_id)s, %(payment_id)s, %(processor_reference)s, %(amount)s, %(currency)s, %(reason)s, %(status)s, %(opened_at)s,
  %(closed_at)s
);

-- name: change_dispute
-- A dispute as it was decided to be.
update payments.disputes
set status = %(status)s, closed_at = %(closed_at)s, updated_at = now()
where dispute_id = %(dispute_id)s;

-- name: send
-- A command that no outbox row stands for.
select pgmq.send(%(queue)s::text, %(message)s::jsonb, %(headers)s::jsonb);

-- name: adopt_payment
-- A payment that a restored backup lost, as Stripe's metadata tell of it; nothing when it is there, or its cart has another.
insert into payments.payments (
  payment_id, cart_id, order_id, customer_id, amount, currency, capture_method, metadata, client_id, fingerprint
)
values (
  %(payment_id)s::uuid, %(cart_id)s, %(order_id)s, %(customer_id)s, %(amount)s, %(currency)s, %(capture_method)s, '{}', 'adopted',
  sha256(%(payment_id)s::uuid::text::bytea)
)
on conflict do nothing;

-- name: adopt_call
-- The call that must once have made its PaymentIntent, so that nobody makes it again.
insert into payments.stripe_requests (
  payment_id, subject_id, operation, idempotency_key, parameters, state, outcome, answered_at
)
values (
  %(payment_id)s::uuid, %(payment_id)s::uuid, 'create_payment_intent', %(payment_id)s::uuid || '/create_payment_intent/1', '{}',
  'answered', 'adopted', clock_timestamp()
)
on conflict do nothing;

-- name: find_rival
-- Another live payment of the same cart.
select from payments.payments p
join payments.payments r using (cart_id)
where p.payment_id = %(payment_id)s and r.payment_id <> p.payment_id and r.status not in ('FAILED', 'VOIDED', 'EXPIRED')
limit 1;

-- name: find_conflict
-- Whether a payment was in conflict before for this reason.
select from payments.payment_history
where payment_id = %(payment_id)s and decision = 'conflicted' and why = %(why)s
limit 1;

-- name: add_history
-- Why payments are where they are, in the order in which it was decided.
insert into payments.payment_history (
  payment_id, signal, source, from_status, to_status, decision, why, stripe_request_id
)
select h.payment_id, h.signal, h.source, h.from_status, h.to_status, h.decision, h.why, h.stripe_request_id
from rows from (
  jsonb_to_recordset(%(rows)s::jsonb) as (
    payment_id uuid, signal text, source text, from_status text, to_status text, decision text, why text,
    stripe_request_id text
  )
) with ordinality as h (
  payment_id, signal, source, from_status, to_status, decision, why, stripe_request_id, position
)
order by h.position;

-- name: database_time
-- The time that events carry: one clock for all hosts.
select clock_timestamp();

-- name: summarize_waiting
-- What nobody has weighed yet, by source.
select
  source, count(*), count(next_attempt_at), min(received_at), clock_timestamp() - min(received_at), max(attempts)
from payments.inbox
where processed_at is null
group by source
order by source;

-- name: count_dead
-- How many dead letters of the inbox nobody has settled.
select count(*) from payments.dead_letters where origin = 'inbox' and resolved_at is null;

-- name: list_dead
-- Dead letters of the inbox that nobody has settled, the newest first.
select d.message_id, i.source, i.message_type, d.payment_id, d.died_at, d.error
from payments.dead_letters d
left join payments.inbox i on i.inbox_id::text = d.message_id
where d.origin = 'inbox' and d.resolved_at is null
order by d.dead_letter_id desc
limit %(rows_max)s;

-- name: show_rows
-- Rows by inbox id, by Stripe's message id or by payment, the oldest first.
select
  inbox_id, source, message_id, message_type, payment_id, received_at, processed_at, outcome, attempts, next_attempt_at,
  last_error, payload
from payments.inbox
where inbox_id = %(inbox_id)s::bigint or payment_id = %(payment_id)s::uuid
  or (source in ('stripe-webhook', 'stripe-api', 'reconciler') and message_id = %(message_id)s::text)
order by inbox_id
limit %(rows_max)s;

-- name: revive
-- A dead row is weighed once more.
update payments.inbox
set processed_at = null, outcome = null, attempts = 0, next_attempt_at = now()
where inbox_id = %(inbox_id)s and outcome = 'dead';

-- name: settle_dead
-- The dead letter of a revived row.
update payments.dead_letters
set resolved_at = clock_timestamp(), resolution = 'tried again'
where origin = 'inbox' and message_id = %(inbox_id)s::text and resolved_at is null;
