-- name: forget_payments
-- The next payments that have been at rest for so long; how many were looked at.
select payments.forget_payments(%(kept_days)s, %(rows_max)s);

-- name: forget_foreign
-- What was about no payment of ours; how much of it went.
select payments.forget_foreign(%(kept_days)s, %(rows_max)s);

-- name: forget_batches
-- When the relay dispatched what; how much of it went.
select payments.forget_batches(%(kept_days)s, %(rows_max)s);

-- name: forget_keys
-- Answers kept under Idempotency-Keys; how many went.
select payments.forget_keys(%(kept_days)s, %(rows_max)s);
