-- name: list
-- Dead letters, the newest first; unsettled ones only, unless asked for all.
select dead_letter_id, origin, payment_id, died_at, attempts, error, resolved_at, resolution
from payments.dead_letters
where resolved_at is null or %(all)s::boolean
order by dead_letter_id desc
limit %(rows_max)s;

-- name: count
-- How many nobody has settled.
select count(*) from payments.dead_letters where resolved_at is null;

-- name: show
-- One dead letter, whole.
select
  dead_letter_id, origin, message_id, payment_id, died_at, attempts, error, resolved_at, resolution, headers, payload
from payments.dead_letters where dead_letter_id = %(dead_letter_id)s;

-- name: lock
-- One to settle; nobody else settles it meanwhile.
select origin, message_id, headers, payload, resolved_at from payments.dead_letters
where dead_letter_id = %(dead_letter_id)s
for update;

-- name: settle
-- What was done about it, and when.
update payments.dead_letters set resolved_at = clock_timestamp(), resolution = %(resolution)s
where dead_letter_id = %(dead_letter_id)s;

-- name: revive
-- A dead row of the inbox is weighed once more.
update payments.inbox set processed_at = null, outcome = null, attempts = 0, next_attempt_at = now()
where inbox_id = %(inbox_id)s::bigint and outcome = 'dead';

-- name: has_queue
-- Whether the queue is still there.
select from pgmq.meta where queue_name = %(queue)s;

-- name: send
-- A dead command back into its queue, under its old id, so that it is the same dead letter should it die again; how often it
-- broke before counts no more.
select pgmq.send(
  %(queue)s,
  %(message)s::jsonb,
  jsonb_build_object('ce-id', %(message_id)s::text)
    || (case when jsonb_typeof(h.headers) = 'object' then h.headers else '{}' end - 'x-payments-faults')
)
from (select %(headers)s::jsonb as headers) h;
