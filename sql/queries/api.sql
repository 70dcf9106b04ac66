-- name: accept
-- Records many wishes at once: payment, history, first event, and the answer under its key. Returns those that were recorded;
-- whoever is missing lost to an earlier request (its key, or its cart's live payment). Waits `lock_wait` for transactions
-- that hold the same key or cart, then raises lock_not_available. The rows come in one global order, so that two of these
-- statements rarely wait for each other crosswise. Without a payment method, the customer's saved one is used. Stripe's customer
-- goes along with a named one, too: it may be another of the same customer's, which Stripe charges together with that only. Both
-- are found by subqueries: a join need not keep the order of the rows.
with patience as materialized (
  select set_config('lock_timeout', %(lock_wait)s, true)
),
wish as materialized (
  select
    r.payment_id, r.event_id, r.cart_id, r.order_id, r.customer_id, r.amount, r.currency, r.capture_method, r.metadata,
    r.client_id, r.idempotency_key, r.fingerprint, r.traceparent,
    coalesce(r.payment_method, (select payment_method from payments.customers where customer_id = r.customer_id))
      as payment_method,
    (select processor_customer from payments.customers where customer_id = r.customer_id) as processor_customer
  from patience, json_to_recordset(%(wishes)s::json) as r (
    payment_id uuid, event_id uuid, cart_id uuid, order_id uuid, customer_id uuid, amount bigint, currency text,
    capture_method text, payment_method text, metadata jsonb, client_id text, idempotency_key text, fingerprint text,
    traceparent text
  )
),
recorded as (
  insert into payments.payments as p (
    payment_id, cart_id, order_id, customer_id, amount, currency, capture_method, payment_method, processor_customer,
    metadata, client_id, idempotency_key, fingerprint
  )
  select
    payment_id, cart_id, order_id, customer_id, amount, currency, capture_method, payment_method, processor_customer,
    metadata, client_id, idempotency_key, decode(fingerprint, 'hex')
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

-- name: find_refunds
-- Refunds as they stand, for callers that read them or wait for them.
select r.refund_id, r.payment_id, r.status, payments.refund_answer(r)::text
from payments.refunds r
where r.refund_id = any(%(refund_ids)s);

-- name: find_settled_refunds
-- Of the refunds that callers wait for, those of which Stripe has said something.
select r.refund_id, r.payment_id, r.status, payments.refund_answer(r)::text
from payments.refunds r
where r.refund_id = any(%(refund_ids)s) and r.status <> 'REQUESTED';

-- name: list_refunds
-- The refunds of a payment, the newest first; one empty row when it has none, no row when there is no such payment.
select case when r.refund_id is not null then payments.refund_answer(r)::text end
from payments.payments p
left join payments.refunds r using (payment_id)
where p.payment_id = %(payment_id)s
order by r.refund_id desc
limit %(rows_max)s;

-- name: lock_key
-- One request with a key at a time. Waits `lock_wait` for another with the same key, then raises lock_not_available.
with patience as materialized (
  select set_config('lock_timeout', %(lock_wait)s, true)
)
select pg_advisory_xact_lock(
  hashtext('payments.idempotency_keys'), hashtext(%(client_id)s::text || ' ' || %(idempotency_key)s::text)
)
from patience;

-- name: find_answer
-- What was answered under a key.
select payment_id, fingerprint, response_status, response_location, response_body::text
from payments.idempotency_keys
where client_id = %(client_id)s and idempotency_key = %(idempotency_key)s;

-- name: lock_payment
-- A payment as it stands, locked until the end of the transaction. Waits `lock_wait`, then raises lock_not_available.
with patience as materialized (
  select set_config('lock_timeout', %(lock_wait)s, true)
)
select
  p.status, p.capture_method, p.order_id, p.currency, p.amount, p.amount_authorized, p.amount_captured, p.amount_reserved,
  p.amount_to_capture, payments.payment_answer(p)::text
from patience
cross join payments.payments p
where p.payment_id = %(payment_id)s
for no key update of p;

-- name: is_catching_up
-- Whether the database was restored, and Stripe may know more; nothing when it does not.
select from payments.cluster where stripe_unlisted_since is not null;

-- name: keep_answer
-- Remembers the answer to a wish that changed nothing, because the same was asked for before.
insert into payments.idempotency_keys (
  client_id, idempotency_key, fingerprint, payment_id, response_status, response_location, response_body
) values (
  %(client_id)s, %(idempotency_key)s, %(fingerprint)s, %(payment_id)s, %(status)s, %(location)s, %(answer)s::json
);

-- name: capture
-- Takes a locked payment to CAPTURING, with history, event and the answer under its key.
with changed as (
  update payments.payments as p
  set
    status = 'CAPTURING', capture_id = %(capture_id)s, amount_to_capture = %(amount)s, order_id = %(order_id)s,
    last_sequence = p.last_sequence + 1
  where p.payment_id = %(payment_id)s
  returning
    p.payment_id, p.order_id, p.currency, p.capture_id, p.amount_to_capture, p.last_sequence, p.updated_at,
    payments.payment_answer(p) as answer
),
told as (
  insert into payments.payment_history (payment_id, signal, source, from_status, to_status, decision, why)
  select payment_id, 'capture-payment', 'api', %(from_status)s, 'CAPTURING', 'applied', %(why)s from changed
),
published as (
  insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
  select
    %(event_id)s, 'capture-requested', payment_id, last_sequence,
    jsonb_build_object(
      'paymentId', payment_id, 'captureId', capture_id, 'orderId', order_id, 'amount', amount_to_capture,
      'currency', currency, 'requestedAt', payments.rfc3339(updated_at)
    ),
    payments.event_headers(
      %(event_id)s::uuid, 'capture-requested', payment_id, last_sequence, updated_at, %(traceparent)s::text
    )
  from changed
),
kept as (
  insert into payments.idempotency_keys (
    client_id, idempotency_key, fingerprint, payment_id, response_status, response_location, response_body
  )
  select %(client_id)s, %(idempotency_key)s, %(fingerprint)s, payment_id, %(status)s, null, answer
  from changed
  where %(idempotency_key)s::text is not null
)
select answer::text from changed;

-- name: void
-- Takes a locked payment to VOIDING, with history, event (where the worker must be told) and the answer under its key.
with changed as (
  update payments.payments as p
  set status = 'VOIDING', next_action = null, last_sequence = p.last_sequence + %(publishes)s::boolean::int
  where p.payment_id = %(payment_id)s
  returning
    p.payment_id, p.order_id, p.amount, p.currency, p.last_sequence, p.updated_at, payments.payment_answer(p) as answer
),
told as (
  insert into payments.payment_history (payment_id, signal, source, from_status, to_status, decision, why)
  select payment_id, 'void-payment', 'api', %(from_status)s, 'VOIDING', 'applied', %(why)s from changed
),
published as (
  insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
  select
    %(event_id)s, 'void-requested', payment_id, last_sequence,
    jsonb_build_object(
      'paymentId', payment_id, 'orderId', order_id, 'amount', amount, 'currency', currency,
      'requestedAt', payments.rfc3339(updated_at)
    ),
    payments.event_headers(
      %(event_id)s::uuid, 'void-requested', payment_id, last_sequence, updated_at, %(traceparent)s::text
    )
  from changed
  where %(publishes)s::boolean
),
kept as (
  insert into payments.idempotency_keys (
    client_id, idempotency_key, fingerprint, payment_id, response_status, response_location, response_body
  )
  select %(client_id)s, %(idempotency_key)s, %(fingerprint)s, payment_id, %(status)s, null, answer
  from changed
  where %(idempotency_key)s::text is not null
)
select answer::text from changed;

-- name: refund
-- Records a refund of a locked payment, with history, event and the answer under its key. A trigger reserves the amount once
-- the statement is through.
with numbered as (
  update payments.payments set last_sequence = last_sequence + 1
  where payment_id = %(payment_id)s
  returning payment_id, order_id, currency, last_sequence
),
made as (
  insert into payments.refunds as r (refund_id, payment_id, amount, currency, reason)
  select %(refund_id)s, payment_id, %(amount)s, currency, %(reason)s from numbered
  returning r.refund_id, r.payment_id, r.amount, r.currency, r.reason, r.created_at, payments.refund_answer(r) as answer
),
told as (
  insert into payments.payment_history (payment_id, signal, source, from_status, to_status, decision, why)
  select payment_id, 'refund-payment', 'api', %(from_status)s, %(from_status)s, 'applied', %(why)s from made
),
published as (
  insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers)
  select
    %(event_id)s, 'refund-requested', made.payment_id, last_sequence,
    jsonb_strip_nulls(jsonb_build_object(
      'refundId', refund_id, 'paymentId', made.payment_id, 'orderId', order_id, 'amount', amount,
      'currency', made.currency, 'reason', reason, 'requestedAt', payments.rfc3339(created_at)
    )),
    payments.event_headers(
      %(event_id)s::uuid, 'refund-requested', made.payment_id, last_sequence, created_at, %(traceparent)s::text
    )
  from made cross join numbered
),
kept as (
  insert into payments.idempotency_keys (
    client_id, idempotency_key, fingerprint, payment_id, response_status, response_location, response_body
  )
  select %(client_id)s, %(idempotency_key)s, %(fingerprint)s, payment_id, %(status)s, %(location)s, answer
  from made
  where %(idempotency_key)s::text is not null
)
select answer::text from made;

-- name: save_payment_method
-- Remembers how a customer pays, in the place of what was remembered before.
insert into payments.customers as c (customer_id, processor_customer, payment_method)
values (%(customer_id)s, %(processor_customer)s, %(payment_method)s)
on conflict (customer_id) do update
set processor_customer = excluded.processor_customer, payment_method = excluded.payment_method, updated_at = now()
where (c.processor_customer, c.payment_method) is distinct from (excluded.processor_customer, excluded.payment_method);

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
-- What our books disagree on, by kind, also where that is nothing.
select k.kind, count(f.kind)
from unnest(payments.imbalance_kinds()) k (kind)
left join payments.audit_findings f using (kind)
group by k.kind;

-- name: gauge_audit_run
-- When the audit last ran, and since when no payment has gone unseen.
select
  coalesce((select extract(epoch from ran_at)::float8 from payments.audit_progress), 'NaN'),
  coalesce((select extract(epoch from last_lap_began_at)::float8 from payments.audit_progress), 'NaN');
