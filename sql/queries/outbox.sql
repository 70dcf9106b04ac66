-- name: append
-- One event, with the headers that its queue messages will have: in the trace that it is given, else in that of the request
-- which the payment began with.
insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers, occurred_at)
values (
  %(event_id)s, %(event_type)s, %(payment_id)s, %(sequence)s, %(payload)s::jsonb,
  payments.event_headers(
    %(event_id)s::uuid, %(event_type)s::text, %(payment_id)s::uuid, %(sequence)s::int, %(occurred_at)s::timestamptz,
    coalesce(
      %(traceparent)s::text,
      (select headers ->> 'traceparent' from payments.outbox where aggregate_id = %(payment_id)s::uuid and sequence = 1)
    )
  ),
  %(occurred_at)s::timestamptz
);

-- name: lag
-- What each queue is owed, the latest first.
select queue_name, waiting, oldest_at, lag, last_dispatched_at from payments.outbox_lag
order by oldest_at, queue_name;
