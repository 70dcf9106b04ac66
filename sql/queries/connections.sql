-- name: act_as
-- Makes a session the process's own: its role, a name in pg_stat_activity, READ COMMITTED whatever the server's default,
-- and limits on what may hang.
select
  set_config('role', %(role)s, false),
  set_config('application_name', %(application)s, false),
  set_config('default_transaction_isolation', 'read committed', false),
  set_config('statement_timeout', %(statement_timeout)s, false),
  set_config('idle_in_transaction_session_timeout', %(idle_timeout)s, false);

-- name: look_for_schema
-- Whether somebody has migrated this database at all.
select to_regclass('payments.schema_migrations') is not null;

-- name: schema_version
-- The highest migration that was applied.
select coalesce(max(version), 0) from payments.schema_migrations;

-- name: is_home
-- Whether this is the cluster the database was made in.
select (select system_identifier from payments.cluster) = (select system_identifier::text from pg_control_system());
