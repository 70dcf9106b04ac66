-- name: append
-- One event, with the headers that its queue messages will have.
insert into payments.outbox (event_id, event_type, aggregate_id, sequence, payload, headers, occurred_at)
values (
  %(event_id)s, %(event_type)s, %(payment_id)s, %(sequence)s, %(payload)s::jsonb,
  payments.event_headers(
    %(event_id)s::uuid, %(event_type)s::text, %(payment_id)s::uuid, %(sequence)s::int, %(occurred_at)s::timestamptz,
    %(traceparent)s::text
  ),
  %(occurred_at)s::timestamptz
);

-- name: lag
-- What each queue is owed, the latest first.
select queue_name, waiting, oldest_at, lag, last_dispatched_at from payments.outbox_lag
order by oldest_at, queue_name;
