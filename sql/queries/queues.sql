-- name: guard_plans
-- For the transaction: no plan made while a queue was empty may scan it, or sort it, once it is long.
select
  set_config('enable_seqscan', 'off', true),
  set_config('enable_bitmapscan', 'off', true),
  set_config('enable_sort', 'off', true);

-- name: count_due
-- How many messages wait to be worked on, counted no further than one can work on. Locks nothing.
select count(*) from (
  select 1 from {queue} where vt >= %(floor)s::timestamptz and vt <= statement_timestamp() order by vt limit %(quantity)s::int
) due;

-- name: lease
-- Leases due messages: invisible to others until the lease ends. From the floor on: below it lie only dead tuples, of
-- messages done long ago, which a read from the start would walk through every time while a long transaction pins them.
with due as materialized (
  select ctid as place, vt from {queue}
  where vt >= %(floor)s::timestamptz and vt <= statement_timestamp()
  order by vt limit %(quantity)s::int
  for update skip locked
)
update {queue} m
set vt = clock_timestamp() + make_interval(secs => %(lease_s)s::float8), read_ct = m.read_ct + 1, last_read_at = clock_timestamp()
where m.ctid = any (array(select place from due))
returning
  m.msg_id, m.read_ct, m.message, m.headers,
  ((select max(vt) from due) - make_interval(secs => %(trail_s)s::float8))::text as floor;

-- name: ack
-- Removes messages, each only for the holder of its very lease. No join with unnest: its plan degenerates.
delete from {queue}
where msg_id = any (%(ids)s::bigint[]) and read_ct = (%(counts)s::int[])[array_position(%(ids)s::bigint[], msg_id)]
returning msg_id;

-- name: postpone
-- Makes messages visible after a delay, each only for the holder of its very lease: an extension, or a hand-back.
update {queue}
set vt = clock_timestamp() + make_interval(secs => (%(delays_s)s::float8[])[array_position(%(ids)s::bigint[], msg_id)])
where msg_id = any (%(ids)s::bigint[]) and read_ct = (%(counts)s::int[])[array_position(%(ids)s::bigint[], msg_id)]
returning msg_id;

-- name: postpone_faulty
-- Hands a message back and notes in its headers how often its handling broke, so that every worker knows.
update {queue}
set
  vt = clock_timestamp() + make_interval(secs => %(delay_s)s::float8),
  headers = case when jsonb_typeof(headers) = 'object' then headers else '{{}}'::jsonb end
    || jsonb_build_object(%(header)s::text, %(faults)s::int)
where msg_id = %(id)s::bigint and read_ct = %(count)s::int
returning msg_id;

-- name: dead_letter
-- Moves a message to the dead letters, only for the holder of its very lease. One that died before, and was put back by an
-- operator, is open again.
with gone as (
  delete from {queue} where msg_id = %(id)s::bigint and read_ct = %(count)s::int
  returning msg_id, read_ct, message, headers
), kept as (
  insert into payments.dead_letters (origin, message_id, payment_id, payload, headers, attempts, error)
  select
    %(origin)s, coalesce(headers ->> 'ce-id', msg_id::text), %(payment_id)s::uuid, coalesce(message, 'null'::jsonb), headers,
    read_ct, %(error)s
  from gone
  on conflict (origin, message_id) do update
  set
    attempts = excluded.attempts, error = excluded.error, died_at = clock_timestamp(), resolved_at = null,
    resolution = null
)
select msg_id from gone;
