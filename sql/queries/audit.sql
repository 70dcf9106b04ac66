-- name: list_due
-- What a run looks at, each payment once, and where it will have come to: what has something open, from the oldest on, and what
-- was off before; whatever was told of since the last run, by snapshots, so that no late commit is missed; and the next slice of
-- all others. The first run begins a lap; so does one whose last snapshot is another cluster's, of whom this one knows nothing.
with progress as materialized (
  select
    case when pg_snapshot_xmax(seen) <= pg_snapshot_xmax(pg_current_snapshot()) then seen end as seen,
    case when pg_snapshot_xmax(seen) <= pg_snapshot_xmax(pg_current_snapshot()) then lap_at end as lap_at
  from payments.audit_progress
), width as materialized (
  select greatest(%(slice_min)s::bigint, ceil(reltuples / %(lap_runs_max)s::int)::bigint) as rows_max
  from pg_class where oid = 'payments.payments'::regclass
), slice as materialized (
  select p.payment_id from payments.payments p
  where p.payment_id > coalesce((select lap_at from progress), '00000000-0000-0000-0000-000000000000')
  order by p.payment_id limit (select rows_max from width)
)
select
  array(
    select payment_id from slice
    union
    select f.payment_id from (
      select payment_id from payments.audit_findings
      where payment_id is not null order by last_seen_at limit %(open_max)s::int
    ) f
    union
    select o.payment_id
    from unnest(array['REQUESTED', 'ACTION_REQUIRED', 'PROCESSING', 'AUTHORIZED', 'CAPTURING', 'VOIDING', 'CONFLICTED']) s (status)
    cross join lateral (
      select p.payment_id from payments.payments p
      where p.status = s.status and p.status <> 'SUCCEEDED' order by p.payment_id limit %(open_max)s::int
    ) o
    union
    select f.payment_id from (
      select payment_id from payments.refunds where status in ('REQUESTED', 'PENDING') order by updated_at limit %(open_max)s::int
    ) f
    union
    select b.payment_id
    from progress
    cross join lateral (
      (
        select o.aggregate_id as payment_id from payments.outbox o
        where o.xid >= pg_snapshot_xmax(progress.seen) order by o.xid, o.outbox_id limit %(told_max)s::int
      )
      union all
      (
        select o.aggregate_id
        from pg_snapshot_xip(progress.seen) as straggler (xid)
        join payments.outbox o on o.xid = straggler.xid
        limit %(told_max)s::int
      )
    ) b
    where progress.seen is not null
    union
    -- It can be compared once Stripe's list was read again, a minute or more after it was seen.
    select m.payment_id from (
      select payment_id from payments.balance_transactions
      where seen_at > (
        select ran_at - make_interval(mins => 10, secs => %(balance_every_s)s::float8) from payments.audit_progress
      )
      limit %(told_max)s::int
    ) m
  ) as payment_ids,
  case when (select count(*) from slice) = (select rows_max from width)
    then (select payment_id from slice order by payment_id desc limit 1)
  end as lap_at,
  not exists (select from progress where lap_at is not null) as begins_lap,
  pg_current_snapshot()::text as seen,
  statement_timestamp() as began_at;

-- name: look
-- The findings of some payments as they are now: what is new, what is still so, and what is gone.
with found as materialized (
  select * from payments.imbalances_of(%(payment_ids)s::uuid[])
), noted as (
  insert into payments.audit_findings as f (kind, subject, payment_id, finding, also)
  select kind, payment_id::text, payment_id, imbalance, also from found
  on conflict (kind, subject) do update set finding = excluded.finding, also = excluded.also, last_seen_at = now()
  returning case when f.first_seen_at = f.last_seen_at then 'new' else 'known' end as what, f.payment_id, f.kind, f.finding
), gone as (
  delete from payments.audit_findings f
  where f.payment_id = any(%(payment_ids)s::uuid[]) and f.kind = any(payments.imbalance_kinds())
    and not exists (select from found where found.payment_id = f.payment_id and found.kind = f.kind)
  returning 'gone' as what, f.payment_id, f.kind, f.finding
)
select what, payment_id, kind, finding from noted
union all
select what, payment_id, kind, finding from gone;

-- name: move_on
-- All that a run was to look at was looked at. Its slice was the last of a lap when the next is to begin one.
insert into payments.audit_progress as p (seen, lap_at, lap_began_at, last_lap_began_at)
values (
  %(seen)s::pg_snapshot, %(lap_at)s::uuid, %(began_at)s::timestamptz,
  case when %(lap_at)s::uuid is null then %(began_at)s::timestamptz end
)
on conflict (singleton) do update
set
  seen = excluded.seen, lap_at = excluded.lap_at, ran_at = now(),
  lap_began_at = case when %(begins_lap)s::boolean then excluded.lap_began_at else p.lap_began_at end,
  last_lap_began_at = case
    when excluded.lap_at is not null then p.last_lap_began_at
    when %(begins_lap)s::boolean then excluded.lap_began_at
    else p.lap_began_at
  end;
