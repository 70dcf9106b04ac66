"""Every right that a role of the service has, as rights.txt beside this lists them: one more or less is a decision."""

from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.development.databases import Database

LISTED = Path(__file__).with_name("rights.txt")
# Of whoever is not the owner; PUBLIC is everybody. Rights on a whole table cover its columns.
RIGHTS = """
with held as (
  select 'schema ' || nspname as thing, null as attribute, (aclexplode(nspacl)).* from pg_namespace
  where nspname in ('payments', 'pgmq')
  union all
  select case relkind when 'S' then 'sequence ' else 'table ' end || relnamespace::regnamespace || '.' || relname, null,
    (aclexplode(relacl)).*
  from pg_class where relnamespace in ('payments'::regnamespace, 'pgmq'::regnamespace)
  union all
  select 'table ' || c.relnamespace::regnamespace || '.' || c.relname, a.attname, (aclexplode(a.attacl)).*
  from pg_attribute a
  join pg_class c on c.oid = a.attrelid
  where c.relnamespace in ('payments'::regnamespace, 'pgmq'::regnamespace)
  union all
  select 'function payments.' || proname, null, (aclexplode(coalesce(proacl, acldefault('f', proowner)))).*
  from pg_proc where pronamespace = 'payments'::regnamespace
)
select thing || ': ' || lower(privilege_type) || columns || ' for ' || string_agg(role, ', ' order by role)
from (
  select coalesce(r.rolname, 'PUBLIC') as role, privilege_type, thing,
    coalesce(' (' || string_agg(attribute, ', ' order by attribute) || ')', '') as columns
  from held
  left join pg_roles r on r.oid = grantee
  where r.rolname in ('payments_api', 'payments_relay', 'payments_worker', 'payments_readonly') or grantee = 0
  group by 1, 2, 3, is_grantable
) each
group by thing, privilege_type, columns
order by 1
"""
# Not these: pgmq's own, alike for everybody on every server.
MEMBERSHIPS = """
select m.member::regrole || ' is a member of ' || m.roleid::regrole from pg_auth_members m
where m.member::regrole::text like 'payments_%' and m.member <> 'payments_owner'::regrole
"""


@pytest.mark.every_postgres
def test_no_role_has_a_right_that_is_not_listed(module_database: Database) -> None:
    with module_database.connect() as admin:
        held = _rights(admin)
        assert admin.execute(MEMBERSHIPS).fetchall() == []
    listed = LISTED.read_text().splitlines()
    assert sorted(set(held) - set(listed)) == [], "granted, and not listed"
    assert sorted(set(listed) - set(held)) == [], "listed, and not granted"


def _rights(admin: psycopg.Connection[Any]) -> list[str]:
    return [right for (right,) in admin.execute(RIGHTS)]
