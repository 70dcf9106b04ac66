-- name: lock
-- One migration at a time; held until the transaction ends.
select pg_advisory_xact_lock(hashtext('payments.migrate'));

-- name: join_owner
-- A superuser may act as anybody; others must be members of the owner role.
do $$ begin
  if not pg_has_role(current_user, 'payments_owner', 'member') then
    execute format('grant payments_owner to %I', current_user);
  end if;
end $$;

-- name: become_owner
-- All objects belong to the owner role, whoever runs the migration.
set local role payments_owner;

-- name: become_oneself
-- Back to the administrator.
reset role;

-- name: look_for_pgmq
-- Whether pgmq is here in any form, and whether the server could install it as an extension.
select
  to_regnamespace('pgmq') is not null as is_installed,
  exists (select from pg_available_extensions where name = 'pgmq') as is_available;

-- name: create_pgmq_extension
-- The server has it.
create extension pgmq;

-- name: look_for_topics
-- Topics came with pgmq 1.11.
select to_regclass('pgmq.topic_bindings') is not null;

-- name: let_owner_use_pgmq
-- Needed where pgmq belongs to somebody else, as an extension does; harmless where it is the owner's own.
do $$ begin
  if not pg_has_role('payments_owner', (select nspowner from pg_namespace where nspname = 'pgmq'), 'usage') then
    grant usage, create on schema pgmq to payments_owner with grant option;
    grant select, insert, update, delete on all tables in schema pgmq to payments_owner with grant option;
  end if;
end $$;

-- name: record_migration
-- What was applied, and when.
insert into payments.schema_migrations (version, name) values (%(version)s, %(name)s);

-- name: record_cluster
-- Where this database lives; left as it is when it is known already.
insert into payments.cluster (system_identifier)
select system_identifier::text from pg_control_system()
on conflict do nothing;
