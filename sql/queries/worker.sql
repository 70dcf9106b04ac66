-- name: begin_intent
-- For the transaction: no long wait for a lock that somebody else keeps. And whether, after a restore, Stripe may know more than
-- our rows do, by which everything else here is decided.
select set_config('lock_timeout', %(lock_wait)s, true), (select stripe_unlisted_since is not null from payments.cluster);

-- name: lock_payment
-- The payment of a command. Its lock makes the decision to call, and a wish to void, come one after the other.
select
  payment_id, cart_id, order_id, customer_id, amount, currency, capture_method, payment_method, processor_customer, metadata,
  status, processor_payment_intent, capture_id, amount_to_capture, created_at
from payments.payments
where payment_id = %(payment_id)s::uuid
for update;

-- name: find_refund
-- A refund of this payment; whoever changes it needs the payment's lock, too.
select refund_id, amount, reason, status, created_at from payments.refunds
where refund_id = %(refund_id)s::uuid and payment_id = %(payment_id)s::uuid;

-- name: find_call
-- The newest generation of the call that somebody intended for this subject.
select call_id, state, attempts, first_attempt_at, outcome, generation, answered_at
from payments.stripe_requests
where subject_id = %(subject_id)s::uuid and operation = %(operation)s
order by generation desc limit 1
for update;

-- name: database_time
-- The one clock that all hosts share.
select clock_timestamp();

-- name: intend_call
-- A call under a key of its own: key and parameters stand from now on.
insert into payments.stripe_requests (payment_id, subject_id, operation, generation, idempotency_key, parameters)
values (%(payment_id)s, %(subject_id)s, %(operation)s, %(generation)s, %(idempotency_key)s, %(parameters)s::json)
returning call_id;

-- name: begin_attempt
-- One more attempt, committed before it is made. What is sent is what stands here, whichever version of the service wrote it.
update payments.stripe_requests
set
  attempts = attempts + 1, state = 'in_flight', last_attempt_at = clock_timestamp(),
  first_attempt_at = coalesce(first_attempt_at, clock_timestamp())
where call_id = %(call_id)s
returning attempts, idempotency_key, parameters::text, last_attempt_at;

-- name: record_answer
-- Stripe's word, also when it comes late, from a worker that has lost its lease meanwhile.
update payments.stripe_requests
set
  state = 'answered', outcome = %(outcome)s, http_status = %(http_status)s::smallint, stripe_request_id = %(request_id)s,
  last_error = null, answered_at = clock_timestamp()
where call_id = %(call_id)s and state <> 'answered';

-- name: record_doubt
-- No word. An attempt that did nothing for sure is not counted, once, and only while no later attempt is under way: the
-- commit of this very statement may have been in doubt, and an attempt uncounted twice would make another's forgotten.
update payments.stripe_requests c
set
  attempts = n.attempts,
  first_attempt_at = case when n.attempts > 0 then c.first_attempt_at end,
  state = case when not n.is_last then c.state when n.attempts > 0 then 'in_doubt' else 'intended' end,
  http_status = %(http_status)s::smallint, stripe_request_id = coalesce(%(request_id)s, c.stripe_request_id),
  last_error = %(error)s
from (
  select
    l.call_id, l.is_last,
    case when l.is_last and not %(burns)s then greatest(l.attempts - 1, %(attempts_min)s::int) else l.attempts end as attempts
  from (
    select call_id, attempts, state = 'in_flight' and last_attempt_at = %(begun_at)s::timestamptz as is_last
    from payments.stripe_requests
    where call_id = %(call_id)s and state not in ('answered', 'parked', 'to_reconcile')
    for update
  ) l
) n
where c.call_id = n.call_id;

-- name: leave_to_reconciler
-- The key is of no use any more, and what it did is not known.
update payments.stripe_requests
set
  state = 'to_reconcile', http_status = coalesce(%(http_status)s::smallint, http_status),
  stripe_request_id = coalesce(%(request_id)s, stripe_request_id), last_error = %(error)s
where call_id = %(call_id)s and state not in ('answered', 'parked');

-- name: unpark_call
-- For an operator who has found out why a call was parked, and puts its command back. Never sent: as new. Refused: the same
-- key would bring the same refusal, so a capture or cancel gets a new one, and the reconciler looks before anything else
-- does. Otherwise the same key goes out again.
update payments.stripe_requests c
set
  state = n.state, swept_to = null, outcome = case when n.state = 'answered' then 'superseded' end,
  answered_at = case when n.state = 'answered' then clock_timestamp() end
from (
  select
    call_id,
    case
      when attempts = 0 then 'intended'
      when http_status is null or http_status >= 500 then 'in_doubt'
      when operation in ('capture_payment_intent', 'cancel_payment_intent') then 'answered'
      else 'to_reconcile'
    end as state
  from payments.stripe_requests
  where subject_id = %(subject_id)s::uuid and operation = %(operation)s and state = 'parked'
  for update
) n
where c.call_id = n.call_id
returning c.state;

-- name: park_call
-- Needs an operator.
update payments.stripe_requests
set
  state = 'parked', http_status = coalesce(%(http_status)s::smallint, http_status),
  stripe_request_id = coalesce(%(request_id)s, stripe_request_id), last_error = %(error)s
where call_id = %(call_id)s and state <> 'answered';

-- name: leave_dead_letter
-- The dead letter of a parked call whose command another worker has: the same that dead_letter would make of it.
insert into payments.dead_letters (origin, message_id, payment_id, payload, headers, attempts, error)
select
  %(origin)s, coalesce(n.headers ->> 'ce-id', %(msg_id)s::text), %(payment_id)s::uuid, %(message)s::jsonb, n.headers,
  %(read_ct)s::int, %(error)s
from (select %(headers)s::jsonb as headers) n
on conflict (origin, message_id) do update
set
  attempts = excluded.attempts, error = excluded.error, died_at = clock_timestamp(), resolved_at = null,
  resolution = null;

-- name: close_call
-- The answer is known by another way, nobody wants it any more, or it is asked again under another key.
update payments.stripe_requests
set
  state = 'answered', outcome = %(outcome)s, answered_at = clock_timestamp(), last_error = coalesce(%(error)s, last_error)
where call_id = %(call_id)s and state <> 'answered';

-- name: kept_answer
-- Whether an inbox message is this very answer.
select from payments.inbox
where source = 'stripe-api' and message_id = %(message_id)s and payload = %(payload)s::jsonb;

-- name: void_payment
-- Voided without a call; under the lock of lock_payment.
update payments.payments
set status = 'VOIDED', last_sequence = last_sequence + 1
where payment_id = %(payment_id)s and status = 'VOIDING'
returning order_id, amount, currency, last_sequence, updated_at;

-- name: add_history
-- Why a payment changed.
insert into payments.payment_history (payment_id, signal, source, from_status, to_status, decision, why)
values (%(payment_id)s, %(signal)s, 'worker', %(from_status)s, %(to_status)s, 'applied', %(why)s);

-- name: reserve_calls
-- Reserves calls, evenly spaced, that begin within a second: how many, in how many seconds the first, and the spacing. The
-- lock lasts for this statement. Time is read after the lock is had. A reservation far ahead is a clock that was set back.
with locked as materialized (
  select * from payments.rate_limits where resource = 'stripe' for update
), timed as materialized (
  select *, clock_timestamp() as moment from locked
), rated as materialized (
  select
    moment,
    greatest(least(next_call_at, moment + make_interval(secs => %(ahead_s_max)s::float8)), moment) as start,
    %(calls_per_s)s::float8 * least(
      1, lowered_to + extract(epoch from greatest(moment - lowered_at, interval '0')) / %(recovery_s)s::float8
    ) as rate
  from timed
), granted as materialized (
  select
    moment, start, rate,
    greatest(least(%(wanted)s::int, ceil((1 - extract(epoch from start - moment)) * rate)), 0)::int as calls
  from rated
), reserved as (
  update payments.rate_limits r
  set next_call_at = g.start + make_interval(secs => g.calls / g.rate)
  from granted g
  where r.resource = 'stripe'
)
select calls, extract(epoch from start - moment)::float8, (1 / rate)::float8 from granted;

-- name: slow_down
-- Stripe said 429: halves the rate, once for all that say so within a second, and waits as long as any of them asked to.
with locked as materialized (
  select * from payments.rate_limits where resource = 'stripe' for update
), timed as materialized (
  select *, clock_timestamp() as moment from locked
)
update payments.rate_limits r
set
  next_call_at = greatest(t.next_call_at, t.moment + make_interval(secs => %(pause_s)s::float8)),
  lowered_to = case when not h.is_due then t.lowered_to else greatest(
    %(share_min)s::float8,
    least(1, t.lowered_to + extract(epoch from t.moment - t.lowered_at) / %(recovery_s)s::float8) / 2
  ) end,
  lowered_at = case when h.is_due then t.moment else t.lowered_at end
from timed t
cross join lateral (
  select t.lowered_at < t.moment - interval '1 second' or t.lowered_to = 1 or t.lowered_at > t.moment
) h (is_due)
where r.resource = 'stripe';
