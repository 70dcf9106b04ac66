-- The whole schema of the Payment Processing System, in the order in which a payment meets it.
-- A database is brought here by `payments migrate`; an older one by sql/migrations. A test proves both ways equal.
-- It is run as payments_owner, in one transaction, after pgmq and sql/roles.sql.

create schema payments;
comment on schema payments is
  'Payments taken with Stripe: intents, the outbox and inbox they travel through, and what was asked of Stripe.';

-- ------------------------------------------------------------------------------------------------------------------
-- Where we are
-- ------------------------------------------------------------------------------------------------------------------

create table payments.schema_migrations (
  version int primary key,
  name text not null,
  applied_at timestamptz not null default now()
);
comment on table payments.schema_migrations is
  'Which versions of the schema were applied. Processes refuse to start on an older or a newer one than theirs.';

-- The outbox remembers transaction ids, which mean nothing in another cluster: after a restore elsewhere every process
-- refuses to write until an operator has settled what counts as dispatched.
create table payments.cluster (
  singleton boolean primary key default true check (singleton),
  system_identifier text not null,
  recorded_at timestamptz not null default now(),
  rebased_at timestamptz,
  stripe_unlisted_since timestamptz
);
comment on table payments.cluster is
  'The cluster this database lives in (pg_control_system), and whether it was restored from a backup. One row.';
comment on column payments.cluster.rebased_at is 'When `payments migrate --rebase` last brought it back after a restore.';
comment on column payments.cluster.stripe_unlisted_since is
  'After a restore: what happened at Stripe since then may be missing here. Until the reconciler has looked at all of it, and '
  'clears this, no wish is taken and no call is made that could move money. Null: nothing is missing.';

-- ------------------------------------------------------------------------------------------------------------------
-- Small words that the tables below share
-- ------------------------------------------------------------------------------------------------------------------

create function payments.rfc3339(moment timestamptz) returns text
language sql immutable strict parallel safe
return to_char(moment at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"');
comment on function payments.rfc3339 is 'A time as the API and the events write it: RFC 3339, UTC, microseconds.';

create function payments.routing_key(event_type text) returns text
language sql immutable strict parallel safe
return regexp_replace(event_type, '-', '.');
comment on function payments.routing_key is
  'payment-action-required → payment.action-required: the first hyphen of an event type is the dot of its routing key.';

-- The state machine of payments/domain/states.py once more, for everybody who writes SQL by hand. A test compares the two.
create function payments.may_change(from_status text, to_status text) returns boolean
language sql immutable strict parallel safe
return to_status = any (
  case from_status
    when 'REQUESTED' then array['AUTHORIZED', 'SUCCEEDED', 'FAILED', 'ACTION_REQUIRED', 'PROCESSING', 'VOIDING', 'VOIDED', 'EXPIRED']
    when 'ACTION_REQUIRED' then array['AUTHORIZED', 'SUCCEEDED', 'PROCESSING', 'FAILED', 'VOIDING', 'VOIDED', 'EXPIRED']
    when 'PROCESSING' then array['AUTHORIZED', 'SUCCEEDED', 'FAILED', 'ACTION_REQUIRED', 'VOIDING', 'VOIDED', 'EXPIRED']
    when 'AUTHORIZED' then array['CAPTURING', 'VOIDING', 'EXPIRED', 'VOIDED', 'SUCCEEDED']
    when 'CAPTURING' then array['SUCCEEDED', 'AUTHORIZED', 'EXPIRED', 'VOIDED']
    when 'VOIDING' then array['VOIDED', 'SUCCEEDED', 'FAILED', 'EXPIRED']
    else '{}'::text[]
  end || array['CONFLICTED']
);
comment on function payments.may_change is
  'Whether a payment may go from one status to the other. CONFLICTED can be reached from anywhere, and left by an operator only.';

-- The guards below ask for rights, not for names: a login role that is only a member of a service's role is bound as well.
create function payments.is_operator() returns boolean
language sql stable parallel safe
return pg_has_role('payments_owner', 'usage');
comment on function payments.is_operator is 'Whether the session acts with the rights of the schema''s owner.';

create function payments.hears_stripe() returns boolean
language sql stable parallel safe
return pg_has_role('payments_worker', 'usage') or pg_has_role('payments_owner', 'usage');
comment on function payments.hears_stripe is 'Whether the session may act on Stripe''s word: the worker and operators, not the API.';

-- Refuses whatever the trigger is for; says why in the trigger's own words.
create function payments.refuse() returns trigger
language plpgsql as $$
begin
  raise exception '%', tg_argv[0] using errcode = 'check_violation';
end $$;

-- ------------------------------------------------------------------------------------------------------------------
-- Who may ask
-- ------------------------------------------------------------------------------------------------------------------

create table payments.api_keys (
  key_id uuid primary key,
  client_id text not null check (client_id ~ '^[a-z][a-z0-9_-]{0,62}$'),
  key_hash bytea not null unique check (octet_length(key_hash) = 32),
  scopes text[] not null check (
    cardinality(scopes) > 0
    and scopes <@ array['payments:write', 'payments:read', 'refunds:write', 'viewer', 'operator']
  ),
  created_at timestamptz not null default now(),
  expires_at timestamptz,
  revoked_at timestamptz
);
comment on table payments.api_keys is
  'API keys, as SHA-256 of a random 256-bit secret (so no slow hash is needed). The key itself is shown once and kept nowhere.';
comment on column payments.api_keys.client_id is
  'Who holds the key. Idempotency keys belong to the client, so they survive a rotation of its API key.';

-- ------------------------------------------------------------------------------------------------------------------
-- The payment
-- ------------------------------------------------------------------------------------------------------------------

create table payments.customers (
  customer_id uuid primary key,
  processor_customer text not null check (starts_with(processor_customer, 'cus_')),
  payment_method text not null check (starts_with(payment_method, 'pm_')),
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now()
);
comment on table payments.customers is
  'The saved payment method of a customer, charged when a payment names the customer and no method: tokens of Stripe''s only.';

-- One row a wish to be paid. It is never deleted: payments are financial records.
create table payments.payments (
  payment_id uuid primary key,
  cart_id uuid not null,
  order_id uuid not null,
  customer_id uuid,
  amount bigint not null check (amount between 1 and 99999999),
  currency text not null check (currency ~ '^[A-Z]{3}$'),
  capture_method text not null check (capture_method in ('automatic', 'manual')),
  payment_method text,
  metadata jsonb not null default '{}' check (jsonb_typeof(metadata) = 'object'),

  status text not null default 'REQUESTED' check (status in (
    'REQUESTED', 'ACTION_REQUIRED', 'PROCESSING', 'AUTHORIZED', 'CAPTURING', 'VOIDING',
    'SUCCEEDED', 'FAILED', 'VOIDED', 'EXPIRED', 'CONFLICTED'
  )),
  amount_authorized bigint not null default 0,
  amount_captured bigint not null default 0,
  amount_refunded bigint not null default 0,
  processor_payment_intent text unique,
  processor_reference text,
  failure_reason text check (
    failure_reason in ('CARD_DECLINED', 'INSUFFICIENT_FUNDS', 'EXPIRED_CARD', 'PROCESSING_ERROR')
  ),
  failure_decline_code text,
  failure_message text,
  next_action jsonb,
  capture_before timestamptz,
  disputed boolean not null default false,

  client_id text not null,
  idempotency_key text check (length(idempotency_key) between 1 and 255),
  fingerprint bytea not null check (octet_length(fingerprint) = 32),
  last_sequence int not null default 1,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  version int not null default 1,
  processor_customer text,
  capture_id uuid,
  amount_to_capture bigint,
  amount_reserved bigint not null default 0,

  -- Money: never captured above what was asked for, never refunded above what was captured.
  constraint payments_authorized_within_amount check (amount_authorized between 0 and amount),
  constraint payments_captured_within_authorized check (amount_captured between 0 and amount_authorized),
  constraint payments_refunded_within_captured check (amount_refunded between 0 and amount_captured),
  -- The reservation of refunds: no isolation level and no hand-written INSERT gets past a CHECK on this one row. A payment that
  -- ended without money may still have to give back what came late: never more than was asked for.
  constraint payments_reserved_within_captured check (
    amount_reserved >= amount_refunded and amount_reserved <= case
      when status in ('FAILED', 'VOIDED', 'EXPIRED', 'CONFLICTED') then amount else amount_captured
    end
  ),
  -- What a state means in columns.
  constraint payments_failed_has_reason check (status <> 'FAILED' or failure_reason is not null),
  constraint payments_reason_means_failed check (failure_reason is null or status in ('FAILED', 'CONFLICTED')),
  constraint payments_action_has_content check ((status = 'ACTION_REQUIRED') = (next_action is not null)),
  constraint payments_succeeded_is_captured check (status <> 'SUCCEEDED' or amount_captured > 0),
  constraint payments_held_is_authorized check (
    status not in ('AUTHORIZED', 'CAPTURING') or (amount_authorized > 0 and amount_captured = 0)
  ),
  constraint payments_capturing_has_wish check (
    status <> 'CAPTURING'
    or (capture_id is not null and amount_to_capture is not null and amount_to_capture <= amount_authorized)
  ),
  constraint payments_to_capture_within_authorized check (amount_to_capture between 1 and amount),
  constraint payments_nothing_captured_unless_succeeded check (
    amount_captured = 0 or status in ('SUCCEEDED', 'CONFLICTED')
  ),
  -- The two guards that the accept statement leans on (ON CONFLICT DO NOTHING covers both at once).
  constraint payments_one_per_idempotency_key unique (client_id, idempotency_key)
);
create unique index payments_one_live_per_cart on payments.payments (cart_id)
where status not in ('FAILED', 'VOIDED', 'EXPIRED');
create index payments_by_cart on payments.payments (cart_id, payment_id);
create index payments_by_order on payments.payments (order_id, payment_id);
create index payments_by_customer on payments.payments (customer_id, payment_id) where customer_id is not null;
-- Most payments end as SUCCEEDED: these are found by walking the primary key, all others by this.
create index payments_by_status on payments.payments (status, payment_id) where status <> 'SUCCEEDED';

comment on table payments.payments is
  'One row for each payment that was accepted. Amounts are integers in the minor units of the currency, as Stripe counts them.';
comment on column payments.payments.order_id is 'The order paid for; the cart''s id stands in until the order is known.';
comment on column payments.payments.payment_method is 'A token of Stripe''s (pm_…), never a card.';
comment on column payments.payments.processor_payment_intent is 'Stripe''s PaymentIntent (pi_…).';
comment on column payments.payments.processor_reference is 'Stripe''s charge (ch_…).';
comment on column payments.payments.next_action is
  'What the browser needs to finish the payment, the client secret included; only while ACTION_REQUIRED.';
comment on column payments.payments.capture_before is 'When Stripe lets the hold lapse; manual capture only.';
comment on column payments.payments.fingerprint is 'SHA-256 of method, path and parsed body: tells a repetition from another wish.';
comment on column payments.payments.last_sequence is
  'How many outbox rows this payment has; the next one gets this plus one, under the row lock.';
comment on column payments.payments.version is 'Counts the changes of this row; the API''s ETag.';
comment on column payments.payments.processor_customer is 'Stripe''s customer (cus_…) whose saved payment method is used.';
comment on column payments.payments.capture_id is 'The latest wish to capture; the key of its call.';
comment on column payments.payments.amount_to_capture is 'What that wish asks for: the rest of the hold is released.';
comment on column payments.payments.amount_reserved is
  'The sum of its refunds that have not failed. Kept by the trigger on payments.refunds, with amount_refunded.';

create function payments.guard_payment() returns trigger
language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    if new.status <> 'REQUESTED' or new.version <> 1 or new.last_sequence <> 1 or new.amount_authorized <> 0 then
      raise exception 'a payment begins as REQUESTED, with nothing authorized' using errcode = 'check_violation';
    end if;
    return new;
  end if;
  if new.status <> old.status and not payments.may_change(old.status, new.status)
    and not (old.status = 'CONFLICTED' and payments.is_operator())
  then
    raise exception 'payment % cannot go from % to %', old.payment_id, old.status, new.status
      using errcode = 'check_violation',
        hint = 'The legal ways stand in payments.may_change; only an operator leaves CONFLICTED.';
  end if;
  if ((new.status <> old.status and new.status not in ('CAPTURING', 'VOIDING'))
      or (new.next_action is not null and new.next_action is distinct from old.next_action))
    and not payments.hears_stripe()
  then
    raise exception 'the API only asks: payment % becomes % when Stripe says so', old.payment_id, new.status
      using errcode = 'check_violation';
  end if;
  if (new.payment_id, new.cart_id, new.customer_id, new.amount, new.currency, new.capture_method, new.payment_method,
      new.processor_customer, new.metadata, new.client_id, new.idempotency_key, new.fingerprint, new.created_at)
    is distinct from
    (old.payment_id, old.cart_id, old.customer_id, old.amount, old.currency, old.capture_method, old.payment_method,
      old.processor_customer, old.metadata, old.client_id, old.idempotency_key, old.fingerprint, old.created_at)
  then
    raise exception 'what was asked for never changes: payment %', old.payment_id using errcode = 'check_violation';
  end if;
  -- The worker asks Stripe for what stands here, and may have asked already; each wish is a call with a key of its own.
  if old.status = 'AUTHORIZED' and new.status = 'CAPTURING' then
    if new.capture_id is not distinct from old.capture_id then
      raise exception 'payment %: each wish to capture has a capture_id of its own', old.payment_id
        using errcode = 'check_violation';
    end if;
  elsif (new.order_id, new.capture_id, new.amount_to_capture) is distinct from (old.order_id, old.capture_id, old.amount_to_capture)
    and not payments.is_operator()
  then
    raise exception 'payment %: order and wish to capture change only on the way from AUTHORIZED to CAPTURING', old.payment_id
      using errcode = 'check_violation';
  end if;
  if old.processor_payment_intent is not null and new.processor_payment_intent is distinct from old.processor_payment_intent then
    raise exception 'payment % keeps its PaymentIntent', old.payment_id using errcode = 'check_violation';
  end if;
  if new.last_sequence < old.last_sequence
    or (old.amount_captured > 0 and new.amount_captured <> old.amount_captured
      and not (old.status = 'CONFLICTED' and payments.is_operator()))
  then
    raise exception 'payment %: captured money and published events are never taken back, nor counted anew', old.payment_id
      using errcode = 'check_violation';
  end if;
  if old.failure_reason is not null and new.status = old.status
    and (new.failure_reason, new.failure_decline_code) is distinct from (old.failure_reason, old.failure_decline_code)
  then
    raise exception 'payment % has ended, and was told of with its reason', old.payment_id using errcode = 'check_violation';
  end if;
  -- Nested: called by the trigger that keeps these sums.
  if (new.amount_reserved, new.amount_refunded) is distinct from (old.amount_reserved, old.amount_refunded)
    and pg_trigger_depth() = 1
  then
    raise exception 'payment %: amount_reserved and amount_refunded are the sums of its refunds', old.payment_id
      using errcode = 'check_violation';
  end if;
  -- An operator recognises, or disowns, money that was given back already.
  if old.amount_reserved > 0 and (new.amount_captured = 0) <> (old.amount_captured = 0) then
    new.amount_refunded := case when new.amount_captured > 0 then coalesce(
      (select sum(r.amount) from payments.refunds r where r.payment_id = old.payment_id and r.status = 'PROCESSED'), 0) else 0 end;
  end if;
  new.version := old.version + 1;
  new.updated_at := now();
  return new;
end $$;
create trigger guard_payment before insert or update on payments.payments
for each row execute function payments.guard_payment();
create trigger keep_payments before delete or truncate on payments.payments
execute function payments.refuse('payments are financial records: they are kept');

-- The one rendering of a payment: every answer of the API, first or replayed, is this text.
create function payments.payment_answer(p payments.payments) returns json
language sql stable parallel safe
return json_build_object(
  'paymentId', p.payment_id, 'cartId', p.cart_id, 'orderId', p.order_id, 'customerId', p.customer_id,
  'amount', p.amount, 'currency', p.currency, 'captureMethod', p.capture_method, 'status', p.status,
  'amountAuthorized', p.amount_authorized, 'amountCaptured', p.amount_captured, 'amountRefunded', p.amount_refunded,
  'processorReference', p.processor_reference,
  'failure', case when p.failure_reason is not null then json_build_object(
    'reason', p.failure_reason, 'declineCode', p.failure_decline_code, 'message', p.failure_message) end,
  'nextAction', p.next_action,
  'captureBefore', payments.rfc3339(p.capture_before),
  'disputed', p.disputed,
  'createdAt', payments.rfc3339(p.created_at), 'updatedAt', payments.rfc3339(p.updated_at), 'version', p.version
);
comment on function payments.payment_answer is 'A payment as the HTTP API shows it.';

-- Why each payment is where it is: one row for every signal that was weighed, also for those that changed nothing.
create table payments.payment_history (
  history_id bigint generated always as identity primary key,
  payment_id uuid not null references payments.payments,
  at timestamptz not null default clock_timestamp(),
  signal text not null,
  source text not null check (source in ('api', 'stripe-webhook', 'stripe-api', 'reconciler', 'worker', 'operator')),
  from_status text,
  to_status text not null,
  decision text not null check (decision in ('applied', 'ignored', 'conflicted', 'compensated')),
  why text not null,
  stripe_request_id text
);
create index payment_history_by_payment on payments.payment_history (payment_id, history_id);
create trigger keep_history before update or delete or truncate on payments.payment_history
execute function payments.refuse('history is append-only, and kept');
create trigger guard_history before insert on payments.payment_history
for each row when (new.source <> 'api' and not payments.hears_stripe())
execute function payments.refuse('the API writes history in its own name only');
comment on table payments.payment_history is 'Append-only: every signal about a payment, what was decided on it, and why.';
comment on column payments.payment_history.stripe_request_id is 'Stripe''s own id of the call (req_…), for their support.';

-- The answers given to requests that carried an Idempotency-Key, kept in the transaction of what they did.
create table payments.idempotency_keys (
  client_id text not null,
  idempotency_key text not null check (length(idempotency_key) between 1 and 255),
  fingerprint bytea not null check (octet_length(fingerprint) = 32),
  payment_id uuid references payments.payments,
  response_status smallint not null check (response_status between 200 and 299),
  response_location text,
  response_body json,
  created_at timestamptz not null default now(),
  primary key (client_id, idempotency_key)
);
create index idempotency_keys_by_age on payments.idempotency_keys (created_at);
comment on table payments.idempotency_keys is
  'What was answered under each Idempotency-Key, as committed. Only successes are kept; anything else may be tried again.';

-- ------------------------------------------------------------------------------------------------------------------
-- Refunds and disputes
-- ------------------------------------------------------------------------------------------------------------------

create table payments.refunds (
  refund_id uuid primary key,
  payment_id uuid not null references payments.payments,
  amount bigint not null check (amount > 0),
  currency text not null check (currency ~ '^[A-Z]{3}$'),
  reason text,
  status text not null default 'REQUESTED' check (status in ('REQUESTED', 'PENDING', 'PROCESSED', 'FAILED')),
  processor_reference text unique,
  failure_reason text,
  external boolean not null default false,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint refunds_failed_has_reason check ((status = 'FAILED') = (failure_reason is not null)),
  constraint refunds_known_to_stripe check (
    processor_reference is not null or (status in ('REQUESTED', 'FAILED') and not external)
  )
);
create index refunds_by_payment on payments.refunds (payment_id, refund_id);
create index refunds_unsettled on payments.refunds (updated_at) where status in ('REQUESTED', 'PENDING');
comment on table payments.refunds is
  'One row for each wish to give money back. All but FAILED ones reserve their amount against what was captured.';
comment on column payments.refunds.reason is 'Free text; `compensation`: made by the service, for money that came too late.';
comment on column payments.refunds.processor_reference is 'Stripe''s refund (re_…).';
comment on column payments.refunds.external is 'Made in Stripe''s dashboard, not through this service.';

-- The states of payments/domain/refunds.py once more. A test compares the two.
create function payments.refund_may_change(from_status text, to_status text) returns boolean
language sql immutable strict parallel safe
return to_status = any (
  case from_status
    when 'REQUESTED' then array['PENDING', 'PROCESSED', 'FAILED']
    when 'PENDING' then array['PROCESSED', 'FAILED']
    when 'PROCESSED' then array['FAILED']
    else '{}'::text[]
  end
);
comment on function payments.refund_may_change is 'Whether a refund may go from one status to the other.';

create function payments.guard_refund() returns trigger
language plpgsql as $$
begin
  if tg_op = 'INSERT' then
    if new.reason = 'compensation' and not payments.hears_stripe() then
      raise exception 'only the service itself compensates' using errcode = 'check_violation';
    end if;
    return new;
  end if;
  if (new.refund_id, new.payment_id, new.amount, new.currency, new.reason, new.external, new.created_at) is distinct from
    (old.refund_id, old.payment_id, old.amount, old.currency, old.reason, old.external, old.created_at)
    or (old.processor_reference is not null and new.processor_reference is distinct from old.processor_reference)
  then
    raise exception 'what was asked for never changes: refund %', old.refund_id using errcode = 'check_violation';
  end if;
  if new.status <> old.status and not payments.refund_may_change(old.status, new.status) then
    raise exception 'refund % cannot go from % to %', old.refund_id, old.status, new.status using errcode = 'check_violation';
  end if;
  new.updated_at := now();
  return new;
end $$;
create trigger guard_refund before insert or update on payments.refunds
for each row execute function payments.guard_refund();
create trigger keep_refunds before delete or truncate on payments.refunds
execute function payments.refuse('refunds are financial records: they are kept');

-- Keeps amount_reserved and amount_refunded of the payment, whose CHECKs then refuse what is too much. Security definer: nobody
-- who may insert a refund needs to be able to touch those two sums. AFTER, for a BEFORE trigger also runs for rows that
-- ON CONFLICT then leaves out. pg_temp stands last, or a caller's own types and tables would stand first.
create function payments.count_refund() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
declare
  reserved bigint := case when new.status <> 'FAILED' then new.amount else 0 end;
  refunded bigint := case when new.status = 'PROCESSED' then new.amount else 0 end;
  payment payments.payments;
begin
  if tg_op = 'UPDATE' then
    reserved := reserved - case when old.status <> 'FAILED' then old.amount else 0 end;
    refunded := refunded - case when old.status = 'PROCESSED' then old.amount else 0 end;
    if reserved = 0 and refunded = 0 then
      return null;
    end if;
  end if;
  update payments.payments p
  set
    amount_reserved = p.amount_reserved + reserved,
    -- What came after the end was never counted as captured, so its way back is not counted as refunded.
    amount_refunded = case when p.amount_captured = 0 then 0 else p.amount_refunded + refunded end
  where p.payment_id = new.payment_id
  returning p.* into strict payment;
  if tg_op = 'INSERT' then
    if payment.amount_captured = 0
      and (new.reason is distinct from 'compensation' or payment.status not in ('FAILED', 'VOIDED', 'EXPIRED'))
    then
      raise exception 'payment % is %: nothing was captured that a refund could give back', payment.payment_id, payment.status
        using errcode = 'check_violation';
    end if;
    if payment.status = 'CONFLICTED' and not new.external then
      raise exception 'payment % is CONFLICTED: an operator looks at it first', payment.payment_id
        using errcode = 'check_violation';
    end if;
    if new.currency <> payment.currency then
      raise exception 'payment % is in %, the refund in %', payment.payment_id, payment.currency, new.currency
        using errcode = 'check_violation';
    end if;
  end if;
  return null;
end $$;
create trigger count_refund after insert or update on payments.refunds
for each row execute function payments.count_refund();

create function payments.refund_answer(r payments.refunds) returns json
language sql stable parallel safe
return json_build_object(
  'refundId', r.refund_id, 'paymentId', r.payment_id, 'amount', r.amount, 'currency', r.currency, 'reason', r.reason,
  'status', r.status, 'processorReference', r.processor_reference, 'failureReason', r.failure_reason,
  'external', r.external, 'createdAt', payments.rfc3339(r.created_at), 'updatedAt', payments.rfc3339(r.updated_at)
);
comment on function payments.refund_answer is 'A refund as the HTTP API shows it.';

create table payments.disputes (
  dispute_id uuid primary key,
  payment_id uuid not null references payments.payments,
  processor_reference text not null unique,
  amount bigint not null check (amount > 0),
  currency text not null check (currency ~ '^[A-Z]{3}$'),
  reason text,
  status text not null check (status in (
    'warning_needs_response', 'warning_under_review', 'needs_response', 'under_review', 'appeal_needs_response',
    'appeal_under_review', 'warning_closed', 'prevented', 'won', 'lost'
  )),
  opened_at timestamptz not null,
  closed_at timestamptz,
  created_at timestamptz not null default now(),
  updated_at timestamptz not null default now(),
  constraint disputes_closed_has_time check (
    (closed_at is not null) = (status in ('warning_closed', 'prevented', 'won', 'lost'))
  )
);
create index disputes_by_payment on payments.disputes (payment_id);

-- The order of payments/domain/disputes.py once more. A test compares the two.
create function payments.dispute_rank(status text) returns int
language sql immutable strict parallel safe
return coalesce(
  array_position(
    array[
      'warning_needs_response', 'warning_under_review', 'needs_response', 'under_review', 'appeal_needs_response',
      'appeal_under_review'
    ],
    status
  ),
  7
);
comment on function payments.dispute_rank is
'How far a dispute has come; its ends are all equally far. It never goes back, but from an end to an appeal.';

create function payments.guard_dispute() returns trigger
language plpgsql as $$
begin
  if (new.dispute_id, new.payment_id, new.processor_reference, new.amount, new.currency, new.reason, new.opened_at, new.created_at)
    is distinct from
    (old.dispute_id, old.payment_id, old.processor_reference, old.amount, old.currency, old.reason, old.opened_at, old.created_at)
  then
    raise exception 'what is disputed never changes: dispute %', old.processor_reference using errcode = 'check_violation';
  end if;
  if payments.dispute_rank(new.status) < payments.dispute_rank(old.status)
    and not (old.closed_at is not null and starts_with(new.status, 'appeal_'))
  then
    raise exception 'dispute % cannot go from % back to %', old.processor_reference, old.status, new.status
      using errcode = 'check_violation';
  end if;
  return new;
end $$;
create trigger guard_dispute before update on payments.disputes
for each row execute function payments.guard_dispute();
create trigger keep_disputes before delete or truncate on payments.disputes
execute function payments.refuse('disputes are financial records: they are kept');
comment on table payments.disputes is 'Chargebacks and inquiries: an axis of their own, beside the state of the payment.';
comment on column payments.disputes.processor_reference is 'Stripe''s dispute (dp_… or du_…).';
comment on column payments.disputes.status is 'Stripe''s word, e.g. needs_response, under_review, won, lost.';

-- ------------------------------------------------------------------------------------------------------------------
-- The outbox: what the world is told, committed together with what happened
-- ------------------------------------------------------------------------------------------------------------------

-- Never updated: the relay keeps its own record of what it has dispatched (relay_batches), so no row here ever turns into
-- a dead tuple, and a transaction that stays open for hours costs nothing.
create table payments.outbox (
  outbox_id bigint generated always as identity primary key,
  event_id uuid not null unique,
  event_type text not null check (event_type in (
    'payment-requested', 'payment-authorized', 'payment-succeeded', 'payment-failed', 'payment-voided', 'payment-expired',
    'payment-action-required', 'capture-requested', 'void-requested', 'refund-requested', 'refund-processed',
    'refund-failed', 'dispute-opened', 'dispute-closed'
  )),
  aggregate_id uuid not null references payments.payments,
  sequence int not null check (sequence >= 1),
  payload jsonb not null check (jsonb_typeof(payload) = 'object'),
  headers jsonb not null check (jsonb_typeof(headers) = 'object'),
  occurred_at timestamptz not null default now(),
  xid xid8 not null default pg_current_xact_id(),
  unique (aggregate_id, sequence)
);
-- The relay finds what committed since its last snapshot by transaction id.
create index outbox_by_xid on payments.outbox (xid, outbox_id);
-- These happen to a payment once in its life; publishing one twice is refused here, whatever the code above believes.
create unique index outbox_once_in_a_life on payments.outbox (aggregate_id, event_type)
where event_type in ('payment-requested', 'payment-succeeded', 'payment-failed', 'payment-voided', 'payment-expired');
create trigger keep_events before update on payments.outbox
execute function payments.refuse('the outbox is append-only');
create trigger guard_event before insert on payments.outbox
for each row when (
  new.event_type not in ('payment-requested', 'capture-requested', 'void-requested', 'refund-requested')
  and not payments.hears_stripe()
)
execute function payments.refuse('the API publishes wishes; outcomes are Stripe''s word');

-- Every wish inserts here, so here it is held back after a restore: its cart may be paid at Stripe already, and forgotten here.
-- One look a statement, whoever runs it but those who bring Stripe's word.
create function payments.hold_wishes() returns trigger
language plpgsql as $$
begin
  if exists (select from payments.cluster where stripe_unlisted_since is not null) then
    raise exception 'restored from a backup: what happened at Stripe since is still being listed' using errcode = 'PY001';
  end if;
  return null;
end $$;
create trigger hold_wishes before insert on payments.outbox
for each statement when (not payments.hears_stripe())
execute function payments.hold_wishes();

-- Numbers without gap, for the service's own roles: whoever takes a number publishes it, and whoever publishes has taken one, or
-- the next event of the payment would find its number taken. Asked at commit, and never for a payment's first event.
create function payments.require_event() returns trigger
language plpgsql
set enable_seqscan = off
as $$
begin
  if new.last_sequence - old.last_sequence <> (
    select count(*) from payments.outbox o
    where o.aggregate_id = new.payment_id and o.sequence > old.last_sequence and o.sequence <= new.last_sequence
  ) then
    raise exception 'the events of payment % are numbered without gap', new.payment_id using errcode = 'check_violation';
  end if;
  return null;
end $$;
create constraint trigger require_event after update on payments.payments deferrable initially deferred
for each row when (new.last_sequence <> old.last_sequence and not payments.is_operator())
execute function payments.require_event();

create function payments.require_number() returns trigger
language plpgsql
set enable_seqscan = off
as $$
begin
  if not exists (
    select from payments.payments p where p.payment_id = new.aggregate_id and p.last_sequence >= new.sequence
  ) then
    raise exception 'the events of payment % are numbered without gap', new.aggregate_id using errcode = 'check_violation';
  end if;
  return null;
end $$;
create constraint trigger require_number after insert on payments.outbox deferrable initially deferred
for each row when (new.sequence > 1 and not payments.is_operator())
execute function payments.require_number();
comment on table payments.outbox is
  'Append-only: events in the transaction of the change that they tell of. payments.outbox_status says what was dispatched.';
comment on column payments.outbox.aggregate_id is 'The payment, also for events of its refunds and disputes.';
comment on column payments.outbox.sequence is 'Counts the events of one payment from 1, without gap.';
comment on column payments.outbox.headers is 'The CloudEvents 1.0 attributes, as they stand in the headers of the queue message.';
comment on column payments.outbox.xid is 'The transaction that wrote the row: tells in which snapshot it became visible.';

create function payments.event_headers(
  event_id uuid, event_type text, payment_id uuid, sequence int, occurred_at timestamptz, traceparent text
) returns jsonb
language sql immutable parallel safe
return jsonb_strip_nulls(jsonb_build_object(
  'ce-specversion', '1.0', 'ce-id', event_id, 'ce-type', event_type, 'ce-source', '/payments', 'ce-subject', payment_id,
  'ce-time', payments.rfc3339(occurred_at), 'ce-dataschema', 'urn:payments:event:' || event_type || ':1',
  'content-type', 'application/json', 'ce-sequence', lpad(sequence::text, 10, '0'), 'traceparent', traceparent,
  'x-pgmq-group', payment_id
));
comment on function payments.event_headers is 'The CloudEvents attributes of one event, for the headers of its queue message.';

-- ------------------------------------------------------------------------------------------------------------------
-- The relay: lanes, and what each has dispatched
-- ------------------------------------------------------------------------------------------------------------------

create table payments.lanes (
  queue_name text primary key check (queue_name ~ '^[a-z][a-z0-9_]{0,46}$'),
  purpose text not null,
  created_at timestamptz not null default now()
);
comment on table payments.lanes is
  'The pgmq queues that the relay serves. Which events a queue gets stands in pgmq.topic_bindings.';

-- A batch is a window between two snapshots: what is visible in `upto` and was not in `after`. Its predecessor is unique, so
-- PostgreSQL itself refuses a second batch on the same footing, whatever locks or isolation levels went wrong. No foreign key
-- leads to it: old batches are deleted one day, and nothing may hold or follow them.
create table payments.relay_batches (
  batch_id bigint generated always as identity primary key,
  queue_name text not null references payments.lanes on delete cascade,
  previous_batch_id bigint unique check (previous_batch_id < batch_id),
  after_snapshot pg_snapshot not null,
  upto_snapshot pg_snapshot not null,
  window_floor_id bigint not null,
  window_ceiling_id bigint not null,
  last_outbox_id bigint not null,
  row_count int not null,
  window_done boolean not null,
  dispatched_at timestamptz not null default clock_timestamp(),
  unique (queue_name, batch_id)
);
create unique index relay_batches_one_first on payments.relay_batches (queue_name) where previous_batch_id is null;
comment on table payments.relay_batches is 'Append-only: how far each lane has come, batch by batch, in snapshots and by outbox id.';
comment on column payments.relay_batches.previous_batch_id is 'Null: the lane starts here, and is owed nothing from before.';
comment on column payments.relay_batches.window_floor_id is
  'The rows of transactions that began after `after_snapshot` stand above this id and not above `window_ceiling_id`.';
comment on column payments.relay_batches.last_outbox_id is 'Inside an open window: all its rows up to this id are dispatched.';
comment on column payments.relay_batches.row_count is 'How many messages the batch sent to the queue.';
comment on column payments.relay_batches.window_done is 'The window is dispatched to its end; the next batch opens a new one.';

-- Dispatches the next rows of one lane; the caller commits. Returns how many outbox rows it went past, 0 when the lane is
-- caught up, -1 when another relay is at work on it. A queue that is locked raises lock_not_available, one that was dropped
-- undefined_table: that lane stops, alone, and goes on where it stood.
--
-- Which rows: those visible in the new snapshot and not in the last, by outbox id. All but a few were written by transactions
-- that began after the last snapshot: they stand between two ids, found once, when the window opens. The stragglers, in
-- progress when that snapshot was taken, are fetched by their transaction ids. So the cost depends on what is new, never on
-- what was dispatched before, and a window that stays open over many batches is read once.
--
-- Plans are guarded: one made while the outbox was empty must not outlive that, so every scan below can only go by the index
-- that it is meant for (`>= and <=` instead of `=`, lest the order of another index will do as well). READ COMMITTED only, for
-- each statement must see what committed before it.
create function payments.dispatch(lane text, rows_max int) returns int
language plpgsql
set lock_timeout = '100ms'
set plan_cache_mode = force_generic_plan
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
as $$
declare
  -- So many rows of other queues are looked at again next time rather than recorded as passed: cheaper than a commit.
  ignored_max constant int := 100;
  last payments.relay_batches;
  opened pg_snapshot;
  closing pg_snapshot;
  floor_id bigint;
  ceiling_id bigint;
  position_id bigint;
  passed int;
  has_more boolean;
  payloads jsonb[];
  event_headers jsonb[];
begin
  if current_setting('transaction_isolation') <> 'read committed' then
    raise exception 'payments.dispatch needs READ COMMITTED';
  end if;
  if rows_max < 1 then
    raise exception 'payments.dispatch needs rows_max of 1 or more';
  end if;
  if not pg_try_advisory_xact_lock(hashtext('payments.dispatch'), hashtext(lane)) then
    return -1;
  end if;
  select * into last from payments.relay_batches
  where queue_name <= lane and queue_name >= lane
  order by queue_name desc, batch_id desc limit 1;
  if last.batch_id is null then
    if not exists (select from payments.lanes where queue_name = lane) then
      return 0; -- the consumer was removed; the relay learns that when it looks at the lanes next
    end if;
    raise no_data_found using message = format('lane %s has no batch to start from', lane);
  end if;

  if last.window_done then
    opened := last.upto_snapshot;
    closing := pg_current_snapshot();
    position_id := 0;
    -- `+ 0`, or PostgreSQL may look for the least id by walking all ids from the first.
    select coalesce(min(outbox_id + 0) - 1, 0), coalesce(max(outbox_id + 0), 0) into floor_id, ceiling_id
    from payments.outbox
    where xid >= pg_snapshot_xmax(opened) and xid < pg_snapshot_xmax(closing) and pg_visible_in_snapshot(xid, closing);
  else
    opened := last.after_snapshot;
    closing := last.upto_snapshot;
    position_id := last.last_outbox_id;
    floor_id := last.window_floor_id;
    ceiling_id := last.window_ceiling_id;
  end if;

  with found as materialized (
    (
      select s.outbox_id, s.event_type, s.payload, s.headers
      from pg_snapshot_xip(opened) as straggler (xid)
      cross join lateral (
        select o.outbox_id, o.event_type, o.payload, o.headers from payments.outbox o
        where (o.xid, o.outbox_id) > (straggler.xid, position_id) and o.xid <= straggler.xid
        order by o.xid, o.outbox_id limit rows_max + 1
      ) s
      where pg_visible_in_snapshot(straggler.xid, closing)
    )
    union all
    (
      select o.outbox_id, o.event_type, o.payload, o.headers from payments.outbox o
      where o.outbox_id > greatest(position_id, floor_id) and o.outbox_id <= ceiling_id
        and o.xid >= pg_snapshot_xmax(opened) and o.xid < pg_snapshot_xmax(closing) and pg_visible_in_snapshot(o.xid, closing)
      order by o.outbox_id limit rows_max + 1
    )
  ),
  batch as materialized (select * from found order by outbox_id limit rows_max),
  bound as materialized (
    select seen.event_type from (select distinct event_type from batch) seen
    where exists (
      select from pgmq.topic_bindings t
      where t.queue_name = lane and payments.routing_key(seen.event_type) ~ t.compiled_regex
    )
  )
  select
    count(*), max(b.outbox_id), (select count(*) from found) > rows_max,
    array_agg(b.payload order by b.outbox_id) filter (where b.event_type in (select event_type from bound)),
    array_agg(b.headers order by b.outbox_id) filter (where b.event_type in (select event_type from bound))
  into passed, position_id, has_more, payloads, event_headers
  from batch b;

  -- Nothing for this queue, and the window's end is reached: leave the window open rather than write a row that says nothing.
  if payloads is null and passed < ignored_max and not has_more and last.window_done then
    return 0;
  end if;
  if payloads is not null then
    perform pgmq.send_batch(lane, payloads, event_headers);
  end if;
  insert into payments.relay_batches (
    queue_name, previous_batch_id, after_snapshot, upto_snapshot, window_floor_id, window_ceiling_id, last_outbox_id,
    row_count, window_done
  ) values (
    lane, last.batch_id, opened, closing, floor_id, ceiling_id, coalesce(position_id, last.last_outbox_id),
    coalesce(cardinality(payloads), 0), not has_more
  );
  return passed;
end $$;
comment on function payments.dispatch is 'Sends the next outbox rows of one lane to its queue and records that in relay_batches.';

-- Makes a queue, its bindings and its lane. Idempotent. `from_beginning`: whether it is owed what is already in the outbox.
create function payments.create_lane(lane text, why text, patterns text[], from_beginning boolean) returns void
language plpgsql as $$
declare
  start pg_snapshot := case when from_beginning then '3:3:'::pg_snapshot else pg_current_snapshot() end;
  pattern text;
begin
  perform pgmq.create(lane);
  foreach pattern in array patterns loop
    perform pgmq.bind_topic(pattern, lane);
  end loop;
  execute format('grant insert, select (msg_id) on pgmq.%I to payments_relay', 'q_' || lane);
  execute format('grant select on pgmq.%I to payments_readonly', 'q_' || lane);
  insert into payments.lanes (queue_name, purpose) values (lane, why) on conflict do nothing;
  insert into payments.relay_batches (
    queue_name, after_snapshot, upto_snapshot, window_floor_id, window_ceiling_id, last_outbox_id, row_count, window_done
  ) values (lane, start, start, 0, 0, 0, 0, true) on conflict do nothing;
end $$;
comment on function payments.create_lane is 'Creates a pgmq queue with its topic bindings, and the relay''s lane to it.';

-- ------------------------------------------------------------------------------------------------------------------
-- After a restore into another cluster: `payments migrate --rebase` calls these two, as the owner, with the outbox locked
-- ------------------------------------------------------------------------------------------------------------------

-- Sends a queue all that its lane still owes it, in outbox order, and records nothing: begin_anew does that for all lanes. What is
-- owed follows from stored values alone: the last batch, and each row's transaction id, both of the cluster that is gone. The rows
-- pass through a cursor, a thousand at a time; sorting them spills to disk.
create function payments.settle_lane(lane text) returns bigint
language plpgsql
set jit = off
as $$
declare
  rows_max constant int := 1000;
  last constant payments.relay_batches := payments.last_batch(lane);
  owed record;
  payloads jsonb[] := '{}';
  event_headers jsonb[] := '{}';
  sent bigint := 0;
begin
  if last.batch_id is null then
    raise no_data_found using message = format('lane %s has no batch to start from', lane);
  end if;
  for owed in
    select o.payload, o.headers
    from payments.outbox_beyond(payments.settled_snapshot(last)) b
    join payments.outbox o using (outbox_id)
    where not payments.is_dispatched(last, o.xid, o.outbox_id)
      and exists (
        select from pgmq.topic_bindings t
        where t.queue_name = lane and payments.routing_key(o.event_type) ~ t.compiled_regex
      )
    order by o.outbox_id
  loop
    payloads := array_append(payloads, owed.payload);
    event_headers := array_append(event_headers, owed.headers);
    sent := sent + 1;
    if sent % rows_max = 0 then
      perform pgmq.send_batch(lane, payloads, event_headers);
      payloads := '{}';
      event_headers := '{}';
    end if;
  end loop;
  if cardinality(payloads) > 0 then
    perform pgmq.send_batch(lane, payloads, event_headers);
  end if;
  return sent;
end $$;
comment on function payments.settle_lane is 'After a restore: sends a queue whatever its lane owes it by the ids of the old cluster.';

-- From here on every lane counts in this cluster's ids, and has dispatched all there is. A row whose id this cluster has not come
-- past yet would be taken for a new one, so it gets the oldest id there is; how many were changed is returned. The old batches
-- speak of the old ids, so they go: of what was dispatched before, it is known only that it was, by now.
create function payments.begin_anew() returns bigint
language plpgsql as $$
declare
  start constant pg_snapshot := pg_current_snapshot();
  newest constant bigint := (select coalesce(max(batch_id), 0) from payments.relay_batches);
  restamped bigint;
begin
  alter table payments.outbox disable trigger keep_events;
  update payments.outbox set xid = '3' where xid >= pg_snapshot_xmin(start);
  get diagnostics restamped = row_count;
  alter table payments.outbox enable trigger keep_events;
  insert into payments.relay_batches (
    queue_name, previous_batch_id, after_snapshot, upto_snapshot, window_floor_id, window_ceiling_id, last_outbox_id, row_count,
    window_done
  )
  select l.queue_name, (payments.last_batch(l.queue_name)).batch_id, start, start, 0, 0, 0, 0, true from payments.lanes l;
  delete from payments.relay_batches where batch_id <= newest;
  return restamped;
end $$;
comment on function payments.begin_anew is
  'After a restore, once every lane is settled: all lanes begin again, in the ids of this cluster.';

-- ------------------------------------------------------------------------------------------------------------------
-- What is asked of Stripe
-- ------------------------------------------------------------------------------------------------------------------

-- One row a call we mean to make, committed before it is made: after a crash the same key and the same parameters go out again.
create table payments.stripe_requests (
  call_id bigint generated always as identity primary key,
  payment_id uuid not null references payments.payments,
  subject_id uuid not null,
  operation text not null check (operation in (
    'create_payment_intent', 'capture_payment_intent', 'cancel_payment_intent', 'create_refund'
  )),
  generation int not null default 1 check (generation >= 1),
  idempotency_key text not null unique,
  parameters json not null,
  attempts int not null default 0,
  state text not null default 'intended' check (
    state in ('intended', 'in_flight', 'in_doubt', 'to_reconcile', 'answered', 'parked')
  ),
  outcome text,
  http_status smallint,
  stripe_request_id text,
  last_error text,
  created_at timestamptz not null default clock_timestamp(),
  first_attempt_at timestamptz,
  last_attempt_at timestamptz,
  answered_at timestamptz,
  swept_to timestamptz,
  unique (subject_id, operation, generation),
  constraint stripe_requests_answered_has_outcome check ((state = 'answered') = (answered_at is not null))
);
create index stripe_requests_by_payment on payments.stripe_requests (payment_id, call_id);
create index stripe_requests_unanswered on payments.stripe_requests (last_attempt_at) where state <> 'answered';
create index stripe_requests_to_reconcile on payments.stripe_requests (call_id) where state = 'to_reconcile';
create trigger keep_answer before update on payments.stripe_requests
for each row when (
  old.state = 'answered' and (new.state, new.outcome, new.answered_at) is distinct from (old.state, old.outcome, old.answered_at)
)
execute function payments.refuse('the call has been answered: Stripe''s word stands');
comment on table payments.stripe_requests is
  'Every call to Stripe that may move money: its idempotency key, its parameters word by word, and what became of it.';
comment on column payments.stripe_requests.subject_id is 'The payment, or the refund, that the call is for.';
comment on column payments.stripe_requests.generation is
  'Grows only after proof that nothing exists at Stripe under the earlier key.';
comment on column payments.stripe_requests.parameters is 'Sent as they stand here, also by a later version of the service.';
comment on column payments.stripe_requests.state is
  'intended: not sent yet. in_flight: sent, no answer yet. in_doubt: no clear answer (timeout, 5xx); the same key goes out again. '
  'to_reconcile: the key is no longer to be trusted; the reconciler looks for the effect at Stripe before anything is sent. '
  'answered: Stripe has said yes or no. parked: needs an operator.';

comment on column payments.stripe_requests.swept_to is
  'Down to here the reconciler''s sweep has looked for the call''s effect, without a gap from its beginning on.';

-- ------------------------------------------------------------------------------------------------------------------
-- The reconciler: what is asked of Stripe when nobody tells us
-- ------------------------------------------------------------------------------------------------------------------

create table payments.watches (
  payment_id uuid primary key references payments.payments,
  looks int not null default 0,
  next_look_at timestamptz not null
);
create index watches_by_time on payments.watches (next_look_at);
comment on table payments.watches is
  'Payments whose PaymentIntent is not at rest, and when the reconciler looks at it next; each look doubles the pause.';
comment on column payments.watches.next_look_at is
  'Not before. The first look waits PAYMENTS_RECONCILE_AFTER_S longer: mostly Stripe tells us first.';

-- Whatever leaves something open at Stripe is watched from that moment on, whoever wrote it; a new state begins the pauses
-- anew. The reconciler ends the watch. Security definer: nobody who changes a payment needs to know of watches.
create function payments.watch_payment() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  insert into payments.watches (payment_id, next_look_at) values (new.payment_id, clock_timestamp())
  on conflict (payment_id) do update set looks = 0, next_look_at = excluded.next_look_at;
  return null;
end $$;
create trigger watch_payment after update of status on payments.payments for each row
when (
  new.status <> old.status and (
    new.status in ('ACTION_REQUIRED', 'PROCESSING', 'AUTHORIZED', 'CAPTURING', 'VOIDING')
    or (new.status = 'FAILED' and new.processor_payment_intent is not null)
  )
)
execute function payments.watch_payment();
create trigger watch_refund after insert or update of status on payments.refunds for each row
when (new.status = 'PENDING')
execute function payments.watch_payment();

create table payments.reconciler_progress (
  job text primary key,
  position timestamptz not null,
  updated_at timestamptz not null default now()
);
comment on table payments.reconciler_progress is 'How far each job of the reconciler has come, e.g. in Stripe''s list of events.';

-- One limit for the workers of all hosts. A worker reserves its next calls, at most a second ahead, and spaces them out.
create table payments.rate_limits (
  resource text primary key,
  next_call_at timestamptz not null default now(),
  lowered_to double precision not null default 1 check (lowered_to > 0 and lowered_to <= 1),
  lowered_at timestamptz not null default now()
);
comment on table payments.rate_limits is
  'How fast we may call: each row is locked for one short update, which reserves calls, never while one is made.';
comment on column payments.rate_limits.next_call_at is 'All before is reserved; the next call may begin here.';
comment on column payments.rate_limits.lowered_to is
  'The share of STRIPE_CALLS_PER_S that was left when Stripe last said 429, at lowered_at; it recovers within a minute.';
insert into payments.rate_limits (resource) values ('stripe');

-- ------------------------------------------------------------------------------------------------------------------
-- What Stripe says it did to our balance
-- ------------------------------------------------------------------------------------------------------------------

-- No foreign key to payments: money of a payment that we have lost is what we want to find here.
create table payments.balance_transactions (
  transaction_id text primary key,
  kind text not null,
  about text not null check (about in ('charge', 'refund', 'dispute')),
  source text not null,
  payment_id uuid not null,
  amount bigint not null,
  fee bigint not null,
  currency text not null,
  exchange_rate numeric,
  moved bigint not null,
  moved_currency text not null,
  created_at timestamptz not null,
  seen_at timestamptz not null default clock_timestamp()
);
create index balance_transactions_by_payment on payments.balance_transactions (payment_id, about, source);
create index balance_transactions_by_time on payments.balance_transactions (seen_at);
create trigger keep_balance before update or delete or truncate on payments.balance_transactions
execute function payments.refuse('balance transactions are Stripe''s word, and kept');
comment on table payments.balance_transactions is
  'Append-only: what Stripe''s list of balance transactions says of our payments. payments.imbalances compares it with our books.';
comment on column payments.balance_transactions.source is 'The charge (ch_…), refund (re_…) or dispute (dp_…) that it is about.';
comment on column payments.balance_transactions.payment_id is 'Ours by its PaymentIntent, else as Stripe''s metadata name it.';
comment on column payments.balance_transactions.amount is 'Gross, in the currency of the account; fee is Stripe''s, kept and not judged.';
comment on column payments.balance_transactions.moved is
  'Gross, in the payment''s own currency, and what is compared: the same as amount, or, after a conversion, what the source says.';

-- ------------------------------------------------------------------------------------------------------------------
-- The inbox: what Stripe said
-- ------------------------------------------------------------------------------------------------------------------

create table payments.inbox (
  inbox_id bigint generated always as identity primary key,
  source text not null check (source in ('stripe-webhook', 'stripe-api', 'reconciler')),
  message_id text not null,
  message_type text not null,
  payment_id uuid,
  payload jsonb not null check (jsonb_typeof(payload) = 'object'),
  received_at timestamptz not null default clock_timestamp(),
  processed_at timestamptz,
  outcome text,
  attempts int not null default 0,
  last_error text,
  next_attempt_at timestamptz,
  unique (source, message_id),
  constraint inbox_processed_has_outcome check ((processed_at is null) = (outcome is null))
);
create index inbox_unprocessed on payments.inbox (inbox_id) where processed_at is null;
-- What was put off comes due without a walk through all that waits.
create index inbox_put_off on payments.inbox (next_attempt_at) where processed_at is null and next_attempt_at is not null;
create index inbox_by_payment on payments.inbox (payment_id, inbox_id) where payment_id is not null;
create trigger guard_inbox before insert on payments.inbox
for each row when (new.source <> 'stripe-webhook' and not payments.hears_stripe())
execute function payments.refuse('the API brings only webhooks');
comment on table payments.inbox is
  'Everything Stripe told us, by webhook, in an answer, or when asked again. The recorder weighs each row once.';
comment on column payments.inbox.message_id is
  'stripe-webhook: the event''s id. stripe-api: <Stripe request id>/<attempt>. reconciler: <object id>/<Stripe request id>.';
comment on column payments.inbox.outcome is
  'applied, ignored, conflicted, compensated, foreign (not ours), superseded (the object was fetched), quarantined, dead.';

-- Its refunds and disputes went on during a conflict, and what Stripe said of them was put aside. The PaymentIntent's own news are
-- the operator's to compare, and a watch's.
create function payments.weigh_again() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  update payments.inbox i
  set processed_at = null, outcome = null, attempts = 0, next_attempt_at = clock_timestamp()
  where i.payment_id = new.payment_id and i.outcome = 'ignored'
    and i.message_type ~ '^(refund[.]|charge[.]dispute[.]|api[.]create_refund$|fetched[.](refund|dispute)$)'
    and i.processed_at >= (
      select max(h.at) from payments.payment_history h where h.payment_id = new.payment_id and h.decision = 'conflicted'
    );
  return null;
end $$;
create trigger weigh_again after update of status on payments.payments for each row
when (old.status = 'CONFLICTED' and new.status <> 'CONFLICTED')
execute function payments.weigh_again();

-- What could not be worked on, with everything an operator needs to try it again.
create table payments.dead_letters (
  dead_letter_id bigint generated always as identity primary key,
  origin text not null check (origin = 'inbox' or origin like 'queue:%'),
  message_id text not null,
  payment_id uuid,
  payload jsonb not null,
  headers jsonb,
  attempts int not null,
  error text not null,
  died_at timestamptz not null default clock_timestamp(),
  resolved_at timestamptz,
  resolution text,
  unique (origin, message_id)
);
create index dead_letters_by_payment on payments.dead_letters (payment_id) where payment_id is not null;
comment on table payments.dead_letters is 'Commands and inbox rows that were given up, until an operator settles them.';
comment on column payments.dead_letters.message_id is 'The queue message''s ce-id, or the inbox id.';

-- ------------------------------------------------------------------------------------------------------------------
-- The queues that are there from the start
-- ------------------------------------------------------------------------------------------------------------------

select payments.create_lane('payment_requested', 'The worker charges', '{payment.requested}', true);
select payments.create_lane('refund_requested', 'The worker refunds', '{refund.requested}', true);
select payments.create_lane('capture_requested', 'The worker captures', '{capture.requested}', true);
select payments.create_lane('void_requested', 'The worker cancels', '{void.requested}', true);
select payments.create_lane(
  'ordering', 'The Ordering domain hears every outcome',
  '{payment.authorized,payment.succeeded,payment.failed,payment.voided,payment.expired,payment.action-required,'
  'refund.processed,refund.failed,dispute.opened,dispute.closed}',
  true
);

-- ------------------------------------------------------------------------------------------------------------------
-- Views that answer an operator's question at once. None asks for the current snapshot: they are true on a standby too.
-- ------------------------------------------------------------------------------------------------------------------

create function payments.is_dispatched(last payments.relay_batches, xid xid8, outbox_id bigint) returns boolean
language sql immutable parallel safe
return pg_visible_in_snapshot(xid, last.after_snapshot)
  or (pg_visible_in_snapshot(xid, last.upto_snapshot) and (last.window_done or outbox_id <= last.last_outbox_id));
comment on function payments.is_dispatched is 'Whether the batch, or one before it on its lane, went past this outbox row.';

-- `>= and <=` instead of `=`: with that, PostgreSQL might as well walk all lanes' batches backwards.
create function payments.last_batch(lane text) returns payments.relay_batches
language sql stable parallel safe
begin atomic
  select b from payments.relay_batches b
  where b.queue_name <= lane and b.queue_name >= lane
  order by b.queue_name desc, b.batch_id desc limit 1;
end;
comment on function payments.last_batch is 'How far a lane has come.';

-- Where the batch's lane has certainly been: not the inside of a window that is still open.
create function payments.settled_snapshot(last payments.relay_batches) returns pg_snapshot
language sql immutable parallel safe
return case when last.window_done then last.upto_snapshot else last.after_snapshot end;
comment on function payments.settled_snapshot is 'Whatever is visible here, the lane has dispatched.';

create function payments.everywhere_dispatched() returns pg_snapshot
language sql stable
begin atomic
  with settled as materialized (
    select payments.settled_snapshot(payments.last_batch(queue_name)) as snapshot from payments.lanes
  ),
  edge as materialized (
    select coalesce(min(pg_snapshot_xmax(snapshot)), '9223372036854775807'::xid8) as xmax from settled
  ),
  running as (
    select distinct r.xid from settled cross join lateral pg_snapshot_xip(snapshot) as r (xid), edge where r.xid < edge.xmax
  )
  select (
    coalesce((select min(xid) from running), edge.xmax)::text || ':' || edge.xmax::text || ':'
    || coalesce((select string_agg(xid::text, ',' order by xid) from running), '')
  )::pg_snapshot
  from edge;
end;
comment on function payments.everywhere_dispatched is 'Whatever is visible here, every lane has dispatched.';

-- The batches of a lane pass an event once and for all, so the first that did is found by halving: a hundred thousand batches
-- cost seventeen looks.
create function payments.passed_at(lane text, xid xid8, outbox_id bigint) returns timestamptz
language plpgsql stable as $$
declare
  low payments.relay_batches;
  best payments.relay_batches := payments.last_batch(lane);
  high bigint := best.batch_id;
  middle bigint;
  probe payments.relay_batches;
begin
  if best.batch_id is null or not payments.is_dispatched(best, xid, outbox_id) then
    return null;
  end if;
  select * into strict low from payments.relay_batches
  where queue_name >= lane and queue_name <= lane order by queue_name, batch_id limit 1;
  if payments.is_dispatched(low, xid, outbox_id) then
    -- Where the lane began, it was owed nothing from before; after retention, the oldest batch that is known must do.
    return case when low.previous_batch_id is not null then low.dispatched_at end;
  end if;
  while high - low.batch_id > 1 loop
    middle := low.batch_id + (high - low.batch_id) / 2;
    select * into probe from payments.relay_batches
    where (queue_name, batch_id) >= (lane, middle) and (queue_name, batch_id) < (lane, high)
    order by queue_name, batch_id limit 1;
    if probe.batch_id is null then
      high := middle;
    elsif payments.is_dispatched(probe, xid, outbox_id) then
      best := probe;
      high := middle;
    else
      low := probe;
    end if;
  end loop;
  return best.dispatched_at;
end $$;
comment on function payments.passed_at is 'When the lane went past this outbox row; null while it has not, or when it began behind it.';

create function payments.dispatched_at(event_type text, xid xid8, outbox_id bigint) returns timestamptz
language sql stable cost 10000
begin atomic
  select max(payments.passed_at(l.queue_name, xid, outbox_id)) from payments.lanes l
  where exists (
    select from pgmq.topic_bindings t
    where t.queue_name = l.queue_name and payments.routing_key(event_type) ~ t.compiled_regex
  );
end;
comment on function payments.dispatched_at is 'When the last of the queues bound to this event got it; null when none is.';

-- A function of its own, so that its plan can be guarded as that of payments.dispatch is.
create function payments.outbox_beyond(settled pg_snapshot)
returns table (outbox_id bigint, event_id uuid, event_type text, occurred_at timestamptz, xid xid8)
language sql stable rows 100
set enable_seqscan = off
set enable_bitmapscan = off
set enable_hashjoin = off
set enable_mergejoin = off
set jit = off
begin atomic
  select o.outbox_id, o.event_id, o.event_type, o.occurred_at, o.xid from payments.outbox o
  where o.xid >= pg_snapshot_xmax(settled)
  union all
  select o.outbox_id, o.event_id, o.event_type, o.occurred_at, o.xid
  from pg_snapshot_xip(settled) as straggler (xid)
  join payments.outbox o on o.xid = straggler.xid;
end;
comment on function payments.outbox_beyond is 'The outbox rows that are not visible in the snapshot.';

-- Two parts, so that looking for what is not dispatched never reads what is.
create view payments.outbox_status as
select
  e.outbox_id, e.event_id, e.event_type, e.dispatched,
  case when e.dispatched then payments.dispatched_at(e.event_type, e.xid, e.outbox_id) end as dispatched_at
from (
  select o.outbox_id, o.event_id, o.event_type, o.xid, true as dispatched
  from payments.outbox o
  where pg_visible_in_snapshot(o.xid, (select payments.everywhere_dispatched()))
  union all
  select u.outbox_id, u.event_id, u.event_type, u.xid, u.dispatched
  from (
    with routes as materialized (
      select payments.last_batch(l.queue_name) as last, t.compiled_regex
      from payments.lanes l
      join pgmq.topic_bindings t using (queue_name)
    )
    select
      o.outbox_id, o.event_id, o.event_type, o.xid,
      not exists (
        select from routes r
        where payments.routing_key(o.event_type) ~ r.compiled_regex
          and payments.is_dispatched(r.last, o.xid, o.outbox_id) is not true
      ) as dispatched
    from payments.outbox_beyond((select payments.everywhere_dispatched())) o
  ) u
) e;
comment on view payments.outbox_status is
  'Each event: whether every queue bound to it has got it, and when the last of them did.';

-- Asked by every relay every half second, so it never counts what is waiting: it looks at the first hundred rows of a lane, as
-- many as payments.dispatch looks at again rather than record them as passed. Its plan is guarded as that of payments.dispatch is.
create function payments.lanes_with_work() returns table (queue_name text, has_work boolean)
language sql stable
set enable_seqscan = off
set enable_bitmapscan = off
set enable_sort = off
set jit = off
begin atomic
  with heads as materialized (select l.queue_name, payments.last_batch(l.queue_name) as last from payments.lanes l)
  select
    h.queue_name,
    coalesce(not (h.last).window_done, true) or (
      select count(*) >= 100 or coalesce(bool_or(payments.routing_key(o.event_type) ~ any (
        array(select t.compiled_regex from pgmq.topic_bindings t where t.queue_name = h.queue_name)
      )), false)
      from (
        (
          select s.event_type
          from pg_snapshot_xip((h.last).upto_snapshot) as straggler (xid)
          cross join lateral (
            select w.event_type from payments.outbox w
            where w.xid >= straggler.xid and w.xid <= straggler.xid
            order by w.xid, w.outbox_id limit 100
          ) s
        )
        union all
        (
          select w.event_type from payments.outbox w
          where w.xid >= pg_snapshot_xmax((h.last).upto_snapshot)
          order by w.xid, w.outbox_id limit 100
        )
      ) o
    )
  from heads h;
end;
comment on function payments.lanes_with_work is 'Every lane, and whether payments.dispatch would find something to do there.';

create view payments.outbox_lag as
select
  l.queue_name,
  owed.waiting,
  owed.oldest_at,
  coalesce(now() - owed.oldest_at, interval '0') as lag,
  (b.last).dispatched_at as last_dispatched_at
from payments.lanes l
cross join lateral (select payments.last_batch(l.queue_name) as last offset 0) b -- offset 0: once a lane, not once a row
cross join lateral (
  select count(*) as waiting, min(o.occurred_at) as oldest_at
  from payments.outbox_beyond(payments.settled_snapshot(b.last)) o
  where not payments.is_dispatched(b.last, o.xid, o.outbox_id)
    and exists (
      select from pgmq.topic_bindings t
      where t.queue_name = l.queue_name and payments.routing_key(o.event_type) ~ t.compiled_regex
    )
) owed;
comment on view payments.outbox_lag is 'Each queue: how many events it is owed, and since when.';

-- Security definer: whoever may see how long the queues are may not read what is in them. A queue that is locked, dropped or
-- closed is left out; counting stops at 100,000, so that a backlog of millions does not make looking at it costly.
-- pg_temp stands last: unnamed it would come first, and a caller's own type `text` would run its CHECK with the owner's rights.
create function payments.queue_lengths() returns table (queue_name text, length bigint, oldest_age interval)
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set lock_timeout = '100ms'
as $$
declare
  lane text;
begin
  for lane in select l.queue_name from payments.lanes l order by l.queue_name loop
    begin
      return query execute format(
        'select %L::text, count(*), now() - min(enqueued_at) '
        'from (select enqueued_at from pgmq.%I order by msg_id limit 100000) m', lane, 'q_' || lane
      );
    exception when lock_not_available or undefined_table or insufficient_privilege then
      null;
    end;
  end loop;
end $$;
comment on function payments.queue_lengths is 'How many messages each queue holds, up to 100,000, and how old the oldest is.';

create view payments.inbox_pending as
select
  inbox_id, source, message_id, message_type, payment_id, received_at, now() - received_at as age,
  attempts, next_attempt_at, last_error
from payments.inbox
where processed_at is null;
comment on view payments.inbox_pending is 'What Stripe told us and nobody has weighed yet.';

create view payments.stuck_payments as
select
  p.payment_id, p.status, p.updated_at, now() - p.updated_at as age,
  r.operation, r.state as call_state, r.attempts, r.last_attempt_at, r.last_error, r.stripe_request_id,
  exists (select from payments.inbox i where i.payment_id = p.payment_id and i.processed_at is null) as inbox_waiting,
  exists (
    select from payments.dead_letters d where d.payment_id = p.payment_id and d.resolved_at is null
  ) as dead_letter,
  w.next_look_at
from (
  select payment_id, status, updated_at, null::uuid as subject_id from payments.payments
  where status in ('REQUESTED', 'PROCESSING', 'CAPTURING', 'VOIDING', 'CONFLICTED')
    and updated_at < now() - interval '5 minutes'
  union all
  select payment_id, 'refund ' || status, updated_at, refund_id from payments.refunds
  where status = 'REQUESTED' and updated_at < now() - interval '5 minutes'
) p
left join lateral (
  select * from payments.stripe_requests c
  where c.payment_id = p.payment_id and (p.subject_id is null or c.subject_id = p.subject_id)
  order by c.call_id desc limit 1
) r on true
left join payments.watches w on w.payment_id = p.payment_id;
comment on view payments.stuck_payments is
  'Payments and refunds that have waited for five minutes or more in a state that should pass, and what they wait for.';

create view payments.payment_timeline as
select
  payment_id, at, 'history' as what, signal as name,
  concat_ws(' ', coalesce(from_status, '-'), '→', to_status, decision, '(' || why || ')') as detail
from payments.payment_history
union all
select aggregate_id, occurred_at, 'outbox', event_type, 'sequence ' || sequence from payments.outbox
union all
select
  payment_id, coalesce(first_attempt_at, created_at), 'stripe call', operation,
  concat_ws(' ', state, outcome, 'attempts', attempts, stripe_request_id)
from payments.stripe_requests
union all
select payment_id, received_at, 'inbox', message_type, concat_ws(' ', source, coalesce(outcome, 'pending')) from payments.inbox
union all
select payment_id, died_at, 'dead letter', origin, error from payments.dead_letters;
comment on view payments.payment_timeline is 'Everything that happened to a payment, to read with WHERE payment_id = … ORDER BY at.';

-- ------------------------------------------------------------------------------------------------------------------
-- Retention: what is forgotten, and when. Payments, refunds, disputes, history, calls and balance transactions are financial
-- records, and kept; what stands below is the memory of how they travelled.
-- ------------------------------------------------------------------------------------------------------------------

create table payments.forgotten (
  payment_id uuid primary key references payments.payments,
  events int not null check (events >= 0),
  forgotten_at timestamptz not null default clock_timestamp()
);
comment on table payments.forgotten is
  'Payments whose events, inbox rows and settled dead letters were deleted, and how many events there had been.';

create table payments.retention_progress (
  singleton boolean primary key default true check (singleton),
  payment_id uuid
);
insert into payments.retention_progress (payment_id) values (null);
comment on table payments.retention_progress is
  'All payments up to this one were looked at in this lap of the retention; null: a lap is to begin.';

-- What was published once in a life and then forgotten must not be published again either.
create function payments.refuse_again() returns trigger
language plpgsql security definer
set search_path = pg_catalog, pg_temp
as $$
begin
  if exists (select from payments.forgotten f where f.payment_id = new.aggregate_id) then
    raise exception 'payment % was told to have ended long ago', new.aggregate_id using errcode = 'unique_violation';
  end if;
  return null;
end $$;
create trigger refuse_again after insert on payments.outbox
for each row when (new.event_type in ('payment-succeeded', 'payment-failed', 'payment-voided', 'payment-expired'))
execute function payments.refuse_again();

-- Forgets the next payments that have been at rest for so many days, at most rows_max of them looked at; returns how many were,
-- fewer than rows_max at the end of a lap. Nothing goes that a lane is owed, that is younger than that, or that somebody still has
-- to do with: a payment that has not ended, an open refund or dispute, a watch, a call that is not answered, an inbox row
-- that is not weighed, a letter that is not settled, a finding of the audit. Whoever changes a payment locks it first, and so does
-- this; it waits for nobody, and locks nothing but rows of payments that are months old.
-- Security definer: nobody may delete but by these functions, which check all of that themselves.
create function payments.forget_payments(kept_days int, rows_max int) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
set jit = off
as $$
declare
  old_at timestamptz := clock_timestamp() - make_interval(days => kept_days);
  looked_at uuid[];
  ids uuid[];
begin
  if kept_days < 35 then
    raise exception 'Stripe tells of the last 30 days again, and repeats webhooks for 3: nothing younger than 35 days is forgotten';
  end if;
  select array_agg(s.payment_id order by s.payment_id) into looked_at from (
    select p.payment_id from payments.payments p
    where p.payment_id > coalesce((select g.payment_id from payments.retention_progress g), '00000000-0000-0000-0000-000000000000')
    order by p.payment_id limit rows_max
  ) s;
  update payments.retention_progress
  set payment_id = case when cardinality(looked_at) = rows_max then looked_at[rows_max] end;
  select array_agg(l.payment_id) into ids from (
    select p.payment_id from payments.payments p
    where p.payment_id = any (looked_at) and p.status in ('SUCCEEDED', 'FAILED', 'VOIDED', 'EXPIRED') and p.updated_at < old_at
      and (
        exists (select from payments.outbox o where o.aggregate_id = p.payment_id)
        or exists (select from payments.inbox i where i.payment_id = p.payment_id)
        or exists (select from payments.dead_letters d where d.payment_id = p.payment_id)
      )
    for no key update skip locked
  ) l;
  -- Under the locks, and in a snapshot of its own.
  with routes as materialized (
    select payments.last_batch(l.queue_name) as last, t.compiled_regex
    from payments.lanes l
    join pgmq.topic_bindings t using (queue_name)
  )
  select array_agg(p.payment_id) into ids from payments.payments p
  where p.payment_id = any (ids) and p.status in ('SUCCEEDED', 'FAILED', 'VOIDED', 'EXPIRED') and p.updated_at < old_at
    and not exists (
      select from payments.outbox o
      where o.aggregate_id = p.payment_id
        and (
          o.occurred_at >= old_at
          or exists (
            select from routes r
            where payments.routing_key(o.event_type) ~ r.compiled_regex
              and payments.is_dispatched(r.last, o.xid, o.outbox_id) is not true
          )
        )
    )
    and not exists (
      select from payments.inbox i
      where i.payment_id = p.payment_id and (i.processed_at is null or i.processed_at >= old_at or i.received_at >= old_at)
    )
    and not exists (
      select from payments.dead_letters d
      where d.payment_id = p.payment_id and (d.resolved_at is null or d.resolved_at >= old_at)
    )
    and not exists (
      select from payments.refunds f
      where f.payment_id = p.payment_id and (f.status in ('REQUESTED', 'PENDING') or f.updated_at >= old_at)
    )
    and not exists (
      select from payments.disputes d
      where d.payment_id = p.payment_id and (d.closed_at is null or d.closed_at >= old_at or d.updated_at >= old_at)
    )
    and not exists (select from payments.stripe_requests c where c.payment_id = p.payment_id and c.state <> 'answered')
    and not exists (select from payments.watches w where w.payment_id = p.payment_id)
    and not exists (select from payments.audit_findings a where a.payment_id = p.payment_id);
  insert into payments.forgotten as f (payment_id, events)
  select p.payment_id, p.last_sequence from payments.payments p where p.payment_id = any (ids)
  on conflict (payment_id) do update set events = excluded.events, forgotten_at = excluded.forgotten_at;
  delete from payments.outbox o where o.aggregate_id = any (ids);
  -- A webhook that came meanwhile locks no payment: it stays, and so does a letter of it.
  delete from payments.inbox i where i.payment_id = any (ids) and i.processed_at < old_at and i.received_at < old_at;
  delete from payments.dead_letters d where d.payment_id = any (ids) and d.resolved_at < old_at;
  return coalesce(cardinality(looked_at), 0);
end $$;
comment on function payments.forget_payments is
  'Deletes events, inbox rows and settled dead letters of payments that have been at rest for so many days; the payments stay.';

-- What other users of the account did. Looks at the oldest rows only: what our own payments leave there is forgotten with them.
create function payments.forget_foreign(kept_days int, rows_max int) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  old_at timestamptz := clock_timestamp() - make_interval(days => kept_days);
  deleted int;
begin
  if kept_days < 35 then
    raise exception 'Stripe tells of the last 30 days again, and repeats webhooks for 3: nothing younger than 35 days is forgotten';
  end if;
  with oldest as materialized (
    select i.inbox_id, i.payment_id, i.processed_at, i.received_at, i.outcome from payments.inbox i
    order by i.inbox_id limit 10 * rows_max
  ), gone as (
    delete from payments.inbox i
    where i.inbox_id in (
      select o.inbox_id from oldest o
      where o.payment_id is null and o.processed_at < old_at and o.received_at < old_at and o.outcome <> 'dead' limit rows_max
    )
    returning i.inbox_id
  )
  select count(*) into deleted from gone;
  return deleted;
end $$;
comment on function payments.forget_foreign is 'Deletes weighed inbox rows that are about no payment of ours, so many days old.';

-- A lane's last batch says how far it has come; those before it only when.
create function payments.forget_batches(kept_days int, rows_max int) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  old_at timestamptz := clock_timestamp() - make_interval(days => kept_days);
  deleted int;
begin
  if kept_days < 35 then
    raise exception 'when events were dispatched is kept as long as they are: 35 days and more';
  end if;
  with oldest as materialized (
    select b.batch_id, b.queue_name, b.dispatched_at from payments.relay_batches b order by b.batch_id limit rows_max + 1000
  ), gone as (
    delete from payments.relay_batches b
    where b.batch_id in (
      select o.batch_id from oldest o
      where o.dispatched_at < old_at and o.batch_id < (payments.last_batch(o.queue_name)).batch_id
      order by o.batch_id limit rows_max
    )
    returning b.batch_id
  )
  select count(*) into deleted from gone;
  return deleted;
end $$;
comment on function payments.forget_batches is 'Deletes the record of dispatches so many days old; the last of each lane stays.';

create function payments.forget_keys(kept_days int, rows_max int) returns int
language plpgsql security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off
as $$
declare
  deleted int;
begin
  if kept_days < 7 then
    raise exception 'an Idempotency-Key is remembered for 7 days and more';
  end if;
  with gone as (
    delete from payments.idempotency_keys k
    where (k.client_id, k.idempotency_key) in (
      select o.client_id, o.idempotency_key from payments.idempotency_keys o
      where o.created_at < clock_timestamp() - make_interval(days => kept_days)
      order by o.created_at limit rows_max
      for update skip locked
    )
    returning k.client_id
  )
  select count(*) into deleted from gone;
  return deleted;
end $$;
comment on function payments.forget_keys is
  'Deletes answers kept under Idempotency-Keys so many days old. A payment keeps its own key, so it is never made twice.';

-- Every committed intent is exactly one of: pending in the outbox, waiting in its queue, in doubt at Stripe, recorded, dead.
-- A row below means money that nobody is looking after, news that nobody was told, or a sum that is off. Each kind of it stands
-- here once; what one cause brings about by itself is told after what says most about it, in this order.
create function payments.imbalance_kinds() returns text[]
language sql immutable parallel safe
return array[
  'payment_unowned', 'payment_unwatched', 'refund_unowned', 'refund_unwatched', 'death_unnoticed', 'charged_twice',
  'outcome_untold', 'outcome_contradicted', 'refund_mistold', 'dispute_mistold', 'told_of_nothing', 'answer_lost',
  'stripe_unasked', 'refunded_off', 'reserved_off', 'disputed_off', 'events_misnumbered', 'history_off',
  'balance_of_nobody', 'balance_captured_off', 'balance_refunded_off', 'balance_disputed_off'
];
comment on function payments.imbalance_kinds is 'What payments.audit_imbalances can find, what says most first.';

-- Stripe's sums, of those payments and objects for which nothing is on its way any more: Stripe's list was read to its present a
-- minute after the last transaction was seen, and after `looked_at` minus a minute nothing may have changed on our side.
create view payments.balance_sums as
select
  b.payment_id, b.about, b.source, sum(b.moved)::bigint as moved, string_agg(distinct b.moved_currency, '/') as currency,
  g.updated_at - interval '1 minute' as settled_at
from payments.balance_transactions b
join payments.reconciler_progress g on g.job = 'balance' and g.position > g.updated_at - interval '15 minutes'
where not exists (select from payments.inbox i where i.payment_id = b.payment_id and i.processed_at is null)
group by b.payment_id, b.about, b.source, g.updated_at
having max(b.seen_at) < g.updated_at - interval '1 minute';
comment on view payments.balance_sums is
  'What Stripe has moved for each charge, refund and dispute of ours, once that can be compared with books older than settled_at.';

create view payments.imbalances as
select p.payment_id, 'payment_unowned' as kind, p.payment_id as subject_id, 'nobody is working on it' as imbalance
from payments.payments p
where p.status = 'REQUESTED'
  and not exists (
    select from payments.outbox o
    where o.aggregate_id = p.payment_id and o.event_type = 'payment-requested'
      and not payments.is_dispatched((select payments.last_batch('payment_requested')), o.xid, o.outbox_id)
  )
  and not exists (select from pgmq.q_payment_requested q where q.message ->> 'paymentId' = p.payment_id::text)
  and not exists (select from payments.inbox i where i.payment_id = p.payment_id and i.processed_at is null)
  and not exists (select from payments.stripe_requests c where c.payment_id = p.payment_id and c.state in ('parked', 'to_reconcile'))
  and not exists (
    select from payments.dead_letters d
    where d.payment_id = p.payment_id
      and (d.resolved_at is null or (d.origin = 'queue:payment_requested' and starts_with(d.resolution, 'discarded:')))
  )
  and (p.processor_payment_intent is null or not exists (select from payments.watches w where w.payment_id = p.payment_id))
union all
-- The reconciler's watch over these leads back to whoever has to work on them.
select p.payment_id, 'payment_unwatched', p.payment_id, p.status || ', and nobody looks after it'
from payments.payments p
where p.status in ('ACTION_REQUIRED', 'PROCESSING', 'AUTHORIZED', 'CAPTURING', 'VOIDING')
  and not exists (select from payments.watches w where w.payment_id = p.payment_id)
  and not exists (select from payments.inbox i where i.payment_id = p.payment_id and i.processed_at is null)
  and not exists (select from payments.dead_letters d where d.payment_id = p.payment_id and d.resolved_at is null)
union all
select f.payment_id, 'refund_unowned', f.refund_id, 'nobody is working on refund ' || f.refund_id
from payments.refunds f
where f.status = 'REQUESTED'
  and not exists (
    select from payments.outbox o
    where o.aggregate_id = f.payment_id and o.event_type = 'refund-requested'
      and not payments.is_dispatched((select payments.last_batch('refund_requested')), o.xid, o.outbox_id)
  )
  and not exists (select from pgmq.q_refund_requested q where q.message ->> 'refundId' = f.refund_id::text)
  and not exists (select from payments.inbox i where i.payment_id = f.payment_id and i.processed_at is null)
  and not exists (
    select from payments.stripe_requests c where c.subject_id = f.refund_id and c.state in ('parked', 'to_reconcile')
  )
  and not exists (
    select from payments.dead_letters d
    where d.payment_id = f.payment_id
      and (
        d.resolved_at is null
        or (
          starts_with(d.resolution, 'discarded:') and d.origin = 'queue:refund_requested'
          and d.payload ->> 'refundId' = f.refund_id::text
        )
      )
  )
union all
select f.payment_id, 'refund_unwatched', f.refund_id, 'refund ' || f.refund_id || ' is PENDING, and nobody looks after it'
from payments.refunds f
where f.status = 'PENDING'
  and not exists (select from payments.watches w where w.payment_id = f.payment_id)
  and not exists (select from payments.inbox i where i.payment_id = f.payment_id and i.processed_at is null)
  and not exists (select from payments.dead_letters d where d.payment_id = f.payment_id and d.resolved_at is null)
union all
-- What was given up has a letter, settled or not.
select i.payment_id, 'death_unnoticed', i.payment_id, 'inbox row ' || i.inbox_id || ' is dead, and has no dead letter'
from payments.inbox i
where i.outcome = 'dead' and i.payment_id is not null
  and not exists (select from payments.dead_letters d where d.origin = 'inbox' and d.message_id = i.inbox_id::text)
union all
-- A new generation is made only after proof that the one before did nothing.
select c.payment_id, 'charged_twice', c.subject_id, c.operation || ' did what it is for ' || count(*) || ' times'
from payments.stripe_requests c
where c.operation in ('create_payment_intent', 'create_refund') and c.outcome in ('answered', 'settled', 'adopted')
group by c.payment_id, c.subject_id, c.operation
having count(*) > 1
union all
select p.payment_id, 'outcome_untold', p.payment_id, 'settled as ' || p.status || ', not published'
from payments.payments p
where p.status in ('SUCCEEDED', 'FAILED', 'VOIDED', 'EXPIRED')
  and not exists (
    select from payments.outbox o
    where o.aggregate_id = p.payment_id and o.event_type = 'payment-' || lower(p.status)
  )
  and not exists (select from payments.forgotten g where g.payment_id = p.payment_id)
union all
select o.aggregate_id, 'outcome_contradicted', o.aggregate_id, 'published ' || o.event_type || ', but is ' || p.status
from payments.outbox o
join payments.payments p on p.payment_id = o.aggregate_id
where o.event_type in ('payment-succeeded', 'payment-failed', 'payment-voided', 'payment-expired')
  and 'payment-' || lower(p.status) <> o.event_type and p.status <> 'CONFLICTED'
union all
-- One that failed after it was processed was told of twice, differently.
select
  f.payment_id, 'refund_mistold', f.refund_id,
  'refund ' || f.refund_id || ' is ' || f.status || ': told ' || t.requested || ' times of the wish, ' || t.processed
  || ' times that it is processed, ' || t.failed || ' times that it failed'
from payments.refunds f
cross join lateral (
  select
    count(*) filter (where o.event_type = 'refund-requested') as requested,
    count(*) filter (where o.event_type = 'refund-processed') as processed,
    count(*) filter (where o.event_type = 'refund-failed') as failed
  from payments.outbox o
  where o.aggregate_id = f.payment_id and o.payload ->> 'refundId' = f.refund_id::text
) t
where (
    t.requested > 1 or t.failed <> (f.status = 'FAILED')::int
    or t.processed not between (f.status = 'PROCESSED')::int and (f.status in ('PROCESSED', 'FAILED'))::int
  )
  -- One that was processed and forgotten may fail even so; that is told of then.
  and not exists (
    select from payments.forgotten g
    where g.payment_id = f.payment_id and (f.updated_at < g.forgotten_at or (t.failed = 1 and f.created_at < g.forgotten_at))
  )
union all
select
  d.payment_id, 'dispute_mistold', d.dispute_id,
  'dispute ' || d.processor_reference || ' is ' || d.status || ': told ' || t.opened || ' times that it was opened, '
  || coalesce('its end last as ' || t.ended, 'and no end of it')
from payments.disputes d
cross join lateral (
  select
    count(*) filter (where o.event_type = 'dispute-opened') as opened,
    (array_agg(o.payload ->> 'status' order by o.sequence desc) filter (where o.event_type = 'dispute-closed'))[1] as ended
  from payments.outbox o
  where o.aggregate_id = d.payment_id and o.payload ->> 'disputeId' = d.dispute_id::text
) t
where (
    t.opened <> 1
    -- What has ended and is open again is under appeal.
    or t.ended is distinct from case when d.closed_at is not null then d.status when starts_with(d.status, 'appeal_') then t.ended end
  )
  and not exists (
    select from payments.forgotten g where g.payment_id = d.payment_id and d.created_at < g.forgotten_at
  )
union all
select o.aggregate_id, 'told_of_nothing', o.event_id, 'published ' || o.event_type || ' of what is not there'
from payments.outbox o
where (
    o.event_type in ('refund-processed', 'refund-failed')
    and not exists (
      select from payments.refunds f where f.payment_id = o.aggregate_id and f.refund_id::text = o.payload ->> 'refundId'
    )
  ) or (
    o.event_type in ('dispute-opened', 'dispute-closed')
    and not exists (
      select from payments.disputes d where d.payment_id = o.aggregate_id and d.dispute_id::text = o.payload ->> 'disputeId'
    )
  )
union all
-- Stripe's answer to a call, and that it was answered, are one transaction.
select c.payment_id, 'answer_lost', c.subject_id, c.operation || ' is ' || c.outcome || ', and the answer is not in the inbox'
from payments.stripe_requests c
where c.state = 'answered' and c.outcome in ('answered', 'declined', 'refused')
  and not exists (select from payments.inbox i where i.payment_id = c.payment_id and i.source = 'stripe-api')
  and not exists (
    select from payments.forgotten g where g.payment_id = c.payment_id and c.answered_at < g.forgotten_at
  )
union all
select p.payment_id, 'stripe_unasked', p.payment_id, p.status || ', and Stripe was neither asked nor heard'
from payments.payments p
where p.status in ('ACTION_REQUIRED', 'PROCESSING', 'AUTHORIZED', 'CAPTURING', 'SUCCEEDED')
  and not exists (select from payments.stripe_requests c where c.payment_id = p.payment_id)
  and not exists (select from payments.inbox i where i.payment_id = p.payment_id)
  and not exists (select from payments.forgotten g where g.payment_id = p.payment_id)
union all
select p.payment_id, 'refunded_off', p.payment_id, 'refunded ' || p.amount_refunded || ', its refunds say ' || coalesce(sum(f.amount), 0)
from payments.payments p
left join payments.refunds f on f.payment_id = p.payment_id and f.status = 'PROCESSED' and p.amount_captured > 0
group by p.payment_id, p.amount_refunded
having p.amount_refunded <> coalesce(sum(f.amount), 0)
union all
select p.payment_id, 'reserved_off', p.payment_id, 'reserved ' || p.amount_reserved || ', its refunds say ' || coalesce(sum(f.amount), 0)
from payments.payments p
left join payments.refunds f on f.payment_id = p.payment_id and f.status <> 'FAILED'
group by p.payment_id, p.amount_reserved
having p.amount_reserved <> coalesce(sum(f.amount), 0)
union all
select p.payment_id, 'disputed_off', p.payment_id, 'disputed: ' || p.disputed || ', its disputes say ' || (not p.disputed)
from payments.payments p
where p.disputed <> exists (
  select from payments.disputes d where d.payment_id = p.payment_id and (d.closed_at is null or d.status = 'lost')
)
union all
select p.payment_id, 'events_misnumbered', p.payment_id, 'events ' || count(o.outbox_id) || ', allotted ' || p.last_sequence
from payments.payments p
left join payments.outbox o on o.aggregate_id = p.payment_id
left join payments.forgotten g on g.payment_id = p.payment_id
group by p.payment_id, p.last_sequence, g.events
having count(o.outbox_id) <> p.last_sequence - coalesce(g.events, 0)
  or coalesce(max(o.sequence), g.events) is distinct from p.last_sequence
union all
select p.payment_id, 'history_off', p.payment_id, p.status || ', its history says ' || h.to_status
from payments.payments p
cross join lateral (
  select w.to_status from payments.payment_history w where w.payment_id = p.payment_id order by w.history_id desc limit 1
) h
where h.to_status <> p.status
union all
select
  b.payment_id, 'balance_of_nobody', b.payment_id,
  'Stripe moved ' || b.moved || ' ' || b.currency || ' (' || b.source || ') for no payment of ours'
from payments.balance_sums b
where not exists (select from payments.payments p where p.payment_id = b.payment_id)
union all
-- Money that came too late was never counted as captured; it is what its refunds give back.
select
  p.payment_id, 'balance_captured_off', p.payment_id,
  'Stripe captured ' || b.moved || ' ' || b.currency || ' (' || b.source || '), our books say ' || o.captured || ' ' || p.currency
from payments.balance_sums b
join payments.payments p on p.payment_id = b.payment_id
cross join lateral (
  select case
    when p.amount_captured > 0 then p.amount_captured
    else coalesce((
      select sum(f.amount) from payments.refunds f
      where f.payment_id = p.payment_id and f.reason = 'compensation' and f.status <> 'FAILED'
    ), 0)
  end as captured
) o
where b.about = 'charge' and p.status in ('SUCCEEDED', 'FAILED', 'VOIDED', 'EXPIRED') and p.updated_at < b.settled_at
  and (b.moved <> o.captured or b.currency <> p.currency)
union all
-- What is pending may have moved, or not yet.
select
  p.payment_id, 'balance_refunded_off', coalesce(f.refund_id, p.payment_id),
  'Stripe gave back ' || -b.moved || ' ' || b.currency || ' (' || b.source || '), our books say '
  || coalesce(f.status || ' ' || f.amount || ' ' || f.currency, 'nothing of it')
from payments.balance_sums b
join payments.payments p on p.payment_id = b.payment_id
left join payments.refunds f on f.processor_reference = b.source
where b.about = 'refund' and p.status <> 'CONFLICTED' and coalesce(f.updated_at, p.updated_at) < b.settled_at
  and (
    b.currency <> p.currency
    or -b.moved <> case
      when f.refund_id is null or f.status = 'FAILED' then 0
      when f.status = 'PROCESSED' or b.moved <> 0 then f.amount
      else 0
    end
  )
union all
-- An inquiry moves nothing. What was won comes back within days.
select
  p.payment_id, 'balance_disputed_off', coalesce(d.dispute_id, p.payment_id),
  'Stripe withdrew ' || -b.moved || ' ' || b.currency || ' (' || b.source || '), our books say '
  || coalesce(d.status || ' ' || d.amount || ' ' || d.currency, 'nothing of it')
from payments.balance_sums b
join payments.payments p on p.payment_id = b.payment_id
left join payments.disputes d on d.processor_reference = b.source
where b.about = 'dispute' and p.status <> 'CONFLICTED' and coalesce(d.updated_at, p.updated_at) < b.settled_at
  and (
    b.currency <> coalesce(d.currency, b.currency)
    or -b.moved <> case
      when d.status in ('needs_response', 'under_review', 'appeal_needs_response', 'appeal_under_review', 'lost') then d.amount
      when d.status = 'won' and b.moved <> 0 and d.updated_at > now() - interval '7 days' then d.amount
      else 0
    end
  );
comment on view payments.imbalances is
  'Each disagreement of our own books, several a payment where they are; payments.audit_imbalances sums them up.';

create view payments.audit_imbalances as
select
  i.payment_id,
  (array_agg(i.imbalance order by array_position(payments.imbalance_kinds(), i.kind), i.subject_id))[1] as imbalance,
  (array_agg(i.kind order by array_position(payments.imbalance_kinds(), i.kind), i.subject_id))[1] as kind,
  (array_agg(i.imbalance order by array_position(payments.imbalance_kinds(), i.kind), i.subject_id))[2:] as also
from payments.imbalances i
group by i.payment_id;
comment on view payments.audit_imbalances is
  'Empty when our own books agree with themselves: no intent that nobody works on, no outcome untold, no sum that is off.';
comment on column payments.audit_imbalances.also is 'What else is off about this payment, mostly by the same cause.';

-- The same of some payments, at a cost that does not depend on how many others there are: by indexes alone, but for the commands
-- that wait in the queues, which are read once; planned each time, for a plan made while the tables were empty must not outlive that.
create function payments.imbalances_of(payment_ids uuid[])
returns table (payment_id uuid, imbalance text, kind text, also text[])
language sql stable rows 10
set enable_seqscan = off
set enable_mergejoin = off
set plan_cache_mode = force_custom_plan
set jit = off
begin atomic
  select a.payment_id, a.imbalance, a.kind, a.also from payments.audit_imbalances a
  where a.payment_id = any (imbalances_of.payment_ids);
end;
comment on function payments.imbalances_of is 'payments.audit_imbalances of these payments only.';

-- The audit that runs all the time: what it has found, and how far it has come.
create table payments.audit_findings (
  kind text not null,
  subject text not null,
  payment_id uuid,
  finding text not null,
  also text[] not null default '{}',
  first_seen_at timestamptz not null default now(),
  last_seen_at timestamptz not null default now(),
  primary key (kind, subject)
);
create index audit_findings_by_payment on payments.audit_findings (payment_id);
comment on table payments.audit_findings is
  'What the audit has found and is still so: the rows of payments.audit_imbalances, as of the audit''s last look at the payment.';
comment on column payments.audit_findings.subject is 'What it is about: the payment''s id.';

create table payments.audit_progress (
  singleton boolean primary key default true check (singleton),
  seen pg_snapshot not null,
  lap_at uuid,
  lap_began_at timestamptz not null default now(),
  last_lap_began_at timestamptz,
  ran_at timestamptz not null default now()
);
comment on table payments.audit_progress is 'How far the audit has come. One row.';
comment on column payments.audit_progress.seen is 'Payments whose events are visible here were looked at since they changed.';
comment on column payments.audit_progress.lap_at is
  'All payments up to this one were looked at in this lap; null: a lap is to begin. last_lap_began_at: nothing is unseen for longer.';

-- ------------------------------------------------------------------------------------------------------------------
-- Who may do what
-- ------------------------------------------------------------------------------------------------------------------

revoke all on all functions in schema payments from public;
grant usage on schema payments, pgmq to payments_api, payments_relay, payments_worker, payments_readonly;
grant execute on function
  payments.rfc3339, payments.routing_key, payments.may_change, payments.is_operator, payments.hears_stripe,
  payments.is_dispatched, payments.last_batch,
  payments.settled_snapshot, payments.everywhere_dispatched, payments.outbox_beyond, payments.passed_at, payments.dispatched_at,
  payments.payment_answer, payments.refund_answer, payments.refund_may_change, payments.dispute_rank,
  payments.event_headers, payments.queue_lengths, payments.imbalance_kinds, payments.imbalances_of
to payments_api, payments_relay, payments_worker, payments_readonly;
grant select on payments.schema_migrations, payments.cluster to payments_api, payments_relay, payments_worker;
grant select on payments.outbox_lag, payments.inbox_pending, payments.stuck_payments, payments.balance_sums, payments.imbalances,
  payments.audit_imbalances, payments.audit_findings, payments.audit_progress
to payments_api, payments_relay, payments_worker;
grant select on pgmq.topic_bindings, pgmq.meta to payments_api, payments_relay, payments_worker, payments_readonly;

grant select on payments.payments, payments.payment_history, payments.refunds, payments.customers, payments.api_keys,
  payments.idempotency_keys, payments.inbox, payments.lanes, payments.relay_batches
to payments_api;
grant insert (
  payment_id, cart_id, order_id, customer_id, amount, currency, capture_method, payment_method, processor_customer, metadata,
  client_id, idempotency_key, fingerprint
) on payments.payments to payments_api;
grant update (status, order_id, capture_id, amount_to_capture, next_action, last_sequence) on payments.payments to payments_api;
grant insert (refund_id, payment_id, amount, currency, reason) on payments.refunds to payments_api;
grant insert (customer_id, processor_customer, payment_method), update (processor_customer, payment_method, updated_at)
on payments.customers to payments_api;
grant insert (payment_id, signal, source, from_status, to_status, decision, why) on payments.payment_history to payments_api;
grant insert (event_id, event_type, aggregate_id, sequence, payload, headers) on payments.outbox to payments_api;
grant select (outbox_id, event_id, event_type, aggregate_id, sequence, occurred_at, xid) on payments.outbox to payments_api;
grant insert (client_id, idempotency_key, fingerprint, payment_id, response_status, response_location, response_body)
on payments.idempotency_keys to payments_api;
grant insert (source, message_id, message_type, payment_id, payload) on payments.inbox to payments_api;

grant select on payments.outbox, payments.lanes, payments.relay_batches to payments_relay;
grant insert (
  queue_name, previous_batch_id, after_snapshot, upto_snapshot, window_floor_id, window_ceiling_id, last_outbox_id, row_count,
  window_done
) on payments.relay_batches to payments_relay;
grant execute on function payments.dispatch, payments.lanes_with_work to payments_relay;

grant select on payments.payments, payments.payment_history, payments.refunds, payments.disputes, payments.outbox,
  payments.stripe_requests, payments.inbox, payments.dead_letters, payments.lanes, payments.relay_batches
to payments_worker;
grant update (
  status, amount_authorized, amount_captured, processor_payment_intent, processor_reference,
  failure_reason, failure_decline_code, failure_message, next_action, capture_before, disputed, last_sequence
) on payments.payments to payments_worker;
-- A payment that a restored backup lost is adopted from Stripe's metadata.
grant insert (
  payment_id, cart_id, order_id, customer_id, amount, currency, capture_method, metadata, client_id, fingerprint
) on payments.payments to payments_worker;
grant insert (refund_id, payment_id, amount, currency, reason, status, processor_reference, failure_reason, external),
  update (status, processor_reference, failure_reason)
on payments.refunds to payments_worker;
grant insert (dispute_id, payment_id, processor_reference, amount, currency, reason, status, opened_at, closed_at),
  update (status, closed_at, updated_at)
on payments.disputes to payments_worker;
grant select, insert, update, delete on payments.watches to payments_worker;
grant select, insert, update on payments.reconciler_progress to payments_worker;
grant update (stripe_unlisted_since) on payments.cluster to payments_worker;
grant insert, update, delete on payments.audit_findings to payments_worker;
grant select, insert on payments.balance_transactions to payments_worker;
grant execute on function payments.forget_payments, payments.forget_foreign, payments.forget_batches, payments.forget_keys
to payments_worker;
grant insert, update on payments.audit_progress to payments_worker;
grant insert (payment_id, signal, source, from_status, to_status, decision, why, stripe_request_id)
on payments.payment_history to payments_worker;
grant insert (event_id, event_type, aggregate_id, sequence, payload, headers, occurred_at) on payments.outbox to payments_worker;
grant insert, update (
  attempts, state, outcome, http_status, stripe_request_id, last_error, first_attempt_at, last_attempt_at, answered_at, swept_to
) on payments.stripe_requests to payments_worker;
grant select, update on payments.rate_limits to payments_worker;
grant insert (source, message_id, message_type, payment_id, payload) on payments.inbox to payments_worker;
grant update (payment_id, processed_at, outcome, attempts, last_error, next_attempt_at) on payments.inbox to payments_worker;
grant insert (origin, message_id, payment_id, payload, headers, attempts, error) on payments.dead_letters to payments_worker;
-- What was tried again and died again is the same dead letter, unsettled again.
grant update (attempts, error, died_at, resolved_at, resolution) on payments.dead_letters to payments_worker;
grant select, insert, update, delete
on pgmq.q_payment_requested, pgmq.q_refund_requested, pgmq.q_capture_requested, pgmq.q_void_requested
to payments_worker;

grant select on all tables in schema payments to payments_readonly;
revoke select on payments.api_keys from payments_readonly;
grant select (key_id, client_id, scopes, created_at, expires_at, revoked_at) on payments.api_keys to payments_readonly;
