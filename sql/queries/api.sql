-- name: accept
-- Records many wishes at once: payment, history, first event, and the answer under its key. Returns those that were recorded;
-- whoever is missing lost to an earlier request (its key, or its cart's live payment). Waits `lock_wait` for transactions
-- that hold the same key or cart, then raises lock_not_available. The rows come in one global order, so that two of these
-- statements rarely wait for each other crosswise.
with patience as materialized (
  select set_config('lock_timeout', %(lock_wait)s, true)
),
wish as materialized (
  select r.*
  from patience, json_to_recordset(%(wishes)s::json) as r (
    payment_id uuid, event_id uuid, cart_id uuid, order_id uuid, customer_id uuid, amount bigint, currency text,
    capture_method text, payment_method text, metadata jsonb, client_id text, idempotency_key text, fingerprint text,
    traceparent text
  )
),
recorded as (
  insert into payments.payments as p (
    payment_id, cart_id, order_id, customer_id, amount, currency, capture_method, payment_method, metadata,
    client_id, idempotency_key, fingerprint
  )
  select
    payment_id, cart_id, order_id, customer_id, amount, currency, capture_method, payment_method, metadata,
    client_id, idempotency_key, decode(fingerprint, 'hex')
  from wish
  on conflict do nothing
  returning p.payment_id, p.created_at, p.fingerprint as fingerprint_bytes, payments.payment_answer(p) as answer
),
won as materialized (
  select wish.*, recorded.created_at, recorded.fingerprint_bytes, recorded.answer
  from recorded
  join wish using (payment_id)
),
told as (
  insert into payments.payment_history (payment_id, signal, source, from_status, to_status, decision, why)
  select payment_id, 'authorize-payment', 'api', null, 'REQUESTED', 'applied', 'asked for by ' || client_id from won
),
published as (
  insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
  select
    event_id, 'payment-requested', payment_id, 1,
    jsonb_strip_nulls(jsonb_build_object(
      'paymentId', payment_id, 'orderId', order_id, 'customerId', customer_id, 'amount', amount, 'currency', currency,
      'requestedAt', payments.rfc3339(created_at)
    )),
    payments.event_headers(event_id, 'payment-requested', payment_id, 1, created_at, traceparent)
  from won
),
kept as (
  insert into payments.idempotency_keys (
    client_id, idempotency_key, fingerprint, payment_id, response_status, response_location, response_body
  )
  select client_id, idempotency_key, fingerprint_bytes, payment_id, 201, '/payments/' || payment_id, answer
  from won
  where idempotency_key is not null
)
select payment_id, answer::text from won;

-- name: find_winners
-- To whom each request of `losers` lost: the answer kept under its key, the payment made under its key, and the live
-- payment of its cart; all null when the winner has ended since.
select
  loser.payment_id,
  k.payment_id, k.fingerprint, k.response_status, k.response_location, k.response_body::text,
  mine.payment_id, mine.fingerprint, mine.answer,
  live.payment_id, live.fingerprint, live.answer
from json_to_recordset(%(losers)s::json) as loser (payment_id uuid, client_id text, idempotency_key text, cart_id uuid)
left join lateral (
  select * from payments.idempotency_keys k
  where k.client_id = loser.client_id and k.idempotency_key = loser.idempotency_key
) k on true
left join lateral (
  select p.payment_id, p.fingerprint, payments.payment_answer(p)::text as answer from payments.payments p
  where p.client_id = loser.client_id and p.idempotency_key = loser.idempotency_key
) mine on true
left join lateral (
  select p.payment_id, p.fingerprint, payments.payment_answer(p)::text as answer from payments.payments p
  where p.cart_id = loser.cart_id and p.status not in ('FAILED', 'VOIDED', 'EXPIRED')
) live on true;

-- name: find_key
-- Whose API key it is and what it may do; nothing when it is unknown, revoked or past its end.
select client_id, scopes from payments.api_keys
where key_hash = %(key_hash)s and revoked_at is null and (expires_at is null or expires_at > now());

-- name: find_payments
-- Payments as they stand, for callers that read them or wait for them.
select p.payment_id, p.status, p.version, payments.payment_answer(p)::text, p.failure_reason, p.failure_decline_code, p.failure_message
from payments.payments p
where p.payment_id = any(%(payment_ids)s);

-- name: find_settled
-- Of the payments that callers wait for, those that have settled.
select p.payment_id, p.status, p.version, payments.payment_answer(p)::text, p.failure_reason, p.failure_decline_code, p.failure_message
from payments.payments p
where p.payment_id = any(%(payment_ids)s) and p.status not in ('REQUESTED', 'PROCESSING', 'CAPTURING', 'VOIDING');

-- name: list_history
-- What was decided about a payment and why, oldest first.
select json_build_object(
  'at', payments.rfc3339(at), 'signal', signal, 'source', source, 'from', from_status, 'to', to_status,
  'decision', decision, 'why', why, 'stripeRequestId', stripe_request_id
)::text
from payments.payment_history
where payment_id = %(payment_id)s
order by history_id
limit %(rows_max)s;

-- name: list_by_cart
-- Payments of a cart, the newest first, below the cursor.
select p.payment_id, payments.payment_answer(p)::text
from payments.payments p
where p.cart_id = %(cart_id)s
  and (%(order_id)s::uuid is null or p.order_id = %(order_id)s)
  and (%(customer_id)s::uuid is null or p.customer_id = %(customer_id)s)
  and (%(status)s::text is null or p.status = %(status)s)
  and (%(below)s::uuid is null or p.payment_id < %(below)s)
order by p.payment_id desc
limit %(rows_max)s;

-- name: list_by_order
-- Payments of an order, the newest first, below the cursor.
select p.payment_id, payments.payment_answer(p)::text
from payments.payments p
where p.order_id = %(order_id)s
  and (%(customer_id)s::uuid is null or p.customer_id = %(customer_id)s)
  and (%(status)s::text is null or p.status = %(status)s)
  and (%(below)s::uuid is null or p.payment_id < %(below)s)
order by p.payment_id desc
limit %(rows_max)s;

-- name: list_by_customer
-- Payments of a customer, the newest first, below the cursor.
select p.payment_id, payments.payment_answer(p)::text
from payments.payments p
where p.customer_id = %(customer_id)s
  and (%(status)s::text is null or p.status = %(status)s)
  and (%(below)s::uuid is null or p.payment_id < %(below)s)
order by p.payment_id desc
limit %(rows_max)s;

-- name: list_all
-- All payments, or those in one state, the newest first, below the cursor.
select p.payment_id, payments.payment_answer(p)::text
from payments.payments p
where (%(status)s::text is null or p.status = %(status)s)
  and (%(below)s::uuid is null or p.payment_id < %(below)s)
order by p.payment_id desc
limit %(rows_max)s;

-- name: limit_time
-- How long the statements of this transaction may take.
select set_config('statement_timeout', %(timeout)s, true);

-- name: gauge_outbox
-- How much each queue is owed, and for how long.
select queue_name, waiting, extract(epoch from lag) from payments.outbox_lag;

-- name: gauge_queues
-- How long each queue is, and how old its oldest message.
select queue_name, length, coalesce(extract(epoch from oldest_age), 0) from payments.queue_lengths();

-- name: gauge_inbox
-- How much of what Stripe told us nobody has weighed yet, and since when.
select count(*), coalesce(extract(epoch from max(age)), 0) from payments.inbox_pending;

-- name: gauge_stuck
-- Payments that have stayed too long in a passing state.
select count(*) from payments.stuck_payments;

-- name: gauge_audit
-- Whether our books agree with themselves.
select count(*) from payments.audit_imbalances;
