-- name: keep
-- Keeps what is about a payment of ours: by its PaymentIntent, or as Stripe's metadata say; a repetition changes nothing.
insert into payments.balance_transactions (
  transaction_id, kind, about, source, payment_id, amount, fee, currency, exchange_rate, moved, moved_currency, created_at
)
select
  b.transaction_id, b.kind, b.about, b.source, coalesce(p.payment_id, b.named_payment_id), b.amount, b.fee, b.currency,
  b.exchange_rate, b.moved, b.moved_currency, b.created_at
from jsonb_to_recordset(%(rows)s::jsonb) as b (
  transaction_id text, kind text, about text, source text, named_payment_id uuid, intent_id text, amount bigint, fee bigint,
  currency text, exchange_rate numeric, moved bigint, moved_currency text, created_at timestamptz
)
left join payments.payments p on p.processor_payment_intent = b.intent_id
where coalesce(p.payment_id, b.named_payment_id) is not null
on conflict do nothing;
