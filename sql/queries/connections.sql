-- name: act_as
-- Makes a session, or `for_now` the transaction, the process's own: its role, and whatever the server's defaults are, READ
-- COMMITTED, times that psycopg reads, the warning of a commit in doubt, and limits on what may hang.
select
  set_config('role', %(role)s, %(for_now)s),
  set_config('default_transaction_isolation', 'read committed', %(for_now)s),
  set_config('DateStyle', 'ISO', %(for_now)s),
  set_config('IntervalStyle', 'postgres', %(for_now)s),
  set_config('client_min_messages', 'warning', %(for_now)s),
  set_config('statement_timeout', %(statement_timeout)s, %(for_now)s),
  set_config('idle_in_transaction_session_timeout', %(idle_timeout)s, %(for_now)s);

-- name: speak_plainly
-- The same for an operator's session: times that psycopg reads, and the warning of a commit in doubt.
select
  set_config('DateStyle', 'ISO', false),
  set_config('IntervalStyle', 'postgres', false),
  set_config('client_min_messages', 'warning', false);

-- name: backend_id
-- The server's process that answers. A pooler tells its clients another, of its own.
select pg_backend_pid();

-- name: confirm
-- A few bytes of WAL behind all that was read: on a server with synchronous standbys, the commit then waits until those have
-- it, and so have all of that. Anywhere else a commit is seen when it is safe.
select pg_logical_emit_message(true, 'payments', '') where current_setting('synchronous_standby_names') <> '';

-- name: look_for_schema
-- Whether somebody has migrated this database at all.
select to_regclass('payments.schema_migrations') is not null;

-- name: schema_version
-- The highest migration that was applied.
select coalesce(max(version), 0) from payments.schema_migrations;

-- name: is_home
-- Whether this is the cluster the database was made in.
select (select system_identifier from payments.cluster) = (select system_identifier::text from pg_control_system());
