-- name: be_patient
-- For the transaction: whoever holds a lock that we need is waited for, but not for ever.
select set_config('lock_timeout', %(lock_timeout)s, true);

-- name: find
-- What there is under a consumer's name. Its role is this database's if it was let into the schema of the queues.
select
  exists (select from payments.lanes where queue_name = %(queue)s) as has_lane,
  array(select pattern from pgmq.topic_bindings where queue_name = %(queue)s order by pattern) as patterns,
  exists (select from pg_roles where rolname = %(role)s) as role_exists,
  coalesce((select has_schema_privilege(oid, 'pgmq', 'usage') from pg_roles where rolname = %(role)s), false) as role_reads,
  array(
    select relname::text from pg_class
    where relnamespace = 'pgmq'::regnamespace and relname = any (%(relations)s::text[])
    order by relname
  ) as taken,
  now() as now;

-- name: create_lane
-- Queue, bindings and lane. From now on: what commits after this; from the beginning: all of the outbox.
select payments.create_lane(%(queue)s, %(purpose)s, %(patterns)s::text[], %(from_beginning)s);

-- name: start_at
-- Puts the start of a lane that nobody has seen yet to a time: before the first event that occurred then or later. Its first
-- window begins there and ends with the snapshot that create_lane took, so the relay takes it up as any other window, and
-- whatever commits late comes after it. Without such an event the lane starts now.
update payments.relay_batches
set after_snapshot = '3:3:', window_ceiling_id = found.newest_id, last_outbox_id = found.first_id - 1, window_done = false
from (
  select min(outbox_id) filter (where occurred_at >= %(start)s::timestamptz) as first_id, max(outbox_id) as newest_id
  from payments.outbox
) found
where queue_name = %(queue)s and previous_batch_id is null and found.first_id is not null;

-- name: create_role
-- A login of its own for the consumer, with no right but those below. The limit leaves connections to everybody else.
create role {role} login password {verifier} connection limit {connections_max};

-- name: let_read
-- All that reading a queue with pgmq's functions needs: they run with their caller's rights. Not changing a message, not
-- sending one, not TRUNCATE; and its archive it may tidy up.
grant usage on schema pgmq to {role};
grant select, delete, update (vt, read_ct, last_read_at) on {queue} to {role};
grant select, insert, delete on {archive} to {role};
grant select on sequence {sequence} to {role};

-- name: let_connect
-- Needed where PUBLIC may not.
grant connect on database {database} to {role};

-- name: set_password
-- Another password for a consumer's role, which may log in again.
alter role {role} login password {verifier};

-- name: shut_out
-- No new sessions for a role that is about to go.
alter role {role} nologin;

-- name: end_sessions
-- Ends the sessions of a role, and waits for each to be gone, so that what they locked is free.
select pg_terminate_backend(pid, 2000) from pg_stat_activity where usename = %(role)s;

-- name: stop_lane
-- Waits for the batch under way on a lane and keeps the relay from the next one, until this transaction ends.
select pg_advisory_xact_lock(hashtext('payments.dispatch'), hashtext(%(queue)s));

-- name: drop_lane
-- Lane and record of what it has got, bindings, queue and archive; also what is left of them.
delete from payments.lanes where queue_name = {name};
delete from pgmq.topic_bindings where queue_name = {name};
select pgmq.drop_queue({name});
drop table if exists {queue}, {archive};
delete from pgmq.meta where queue_name = {name};

-- name: join_role
-- To give up what a role owns, one must be a member of it; a superuser is everybody.
do $$ begin
  if not pg_has_role(current_user, {role_name}, 'usage') then
    execute format('grant %I to %I', {role_name}, current_user);
  end if;
end $$;

-- name: drop_role
-- The role, with all its rights in this database.
drop owned by {role};
drop role {role};

-- name: has_forgotten
-- Whether retention has deleted any events yet.
select from payments.forgotten limit 1;

-- name: list
-- Every queue that is not the service's own, what it hears, who may read it, what waits in it, and what it is owed.
select
  l.queue_name as queue,
  l.purpose,
  array(select t.pattern from pgmq.topic_bindings t where t.queue_name = l.queue_name order by t.pattern) as events,
  r.rolname::text as role,
  q.length as waiting,
  o.waiting as owed,
  extract(epoch from o.lag)::float8 as lag_s,
  l.created_at
from payments.lanes l
left join pg_roles r on r.rolname = %(role_prefix)s || l.queue_name and has_schema_privilege(r.oid, 'pgmq', 'usage')
left join payments.queue_lengths() q using (queue_name)
left join payments.outbox_lag o using (queue_name)
where l.queue_name <> all (%(service_queues)s::text[])
order by l.created_at, l.queue_name;
