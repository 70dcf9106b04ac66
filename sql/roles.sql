-- The roles of the service. They belong to the cluster, not to one database, so this file may run many times and beside itself.
-- Each may do what it must and no more; what that is stands at the end of schema.sql. They can log in only once somebody
-- gives them a password (ALTER ROLE … PASSWORD), or where pg_hba.conf lets them.
do $$
declare
  wanted text;
begin
  -- Two databases of one cluster may be migrated at the same moment.
  perform pg_advisory_xact_lock(hashtext('payments.roles'));
  if not exists (select from pg_roles where rolname = 'payments_owner') then
    create role payments_owner nologin;
  end if;
  foreach wanted in array array['payments_api', 'payments_relay', 'payments_worker', 'payments_readonly'] loop
    if not exists (select from pg_roles where rolname = wanted) then
      execute format('create role %I login', wanted);
    end if;
  end loop;
end $$;
