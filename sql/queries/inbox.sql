-- name: receive
-- Keeps a message once; a repetition changes nothing.
insert into payments.inbox (source, message_id, message_type, payment_id, payload)
values (%(source)s, %(message_id)s, %(message_type)s, %(payment_id)s, %(payload)s::jsonb)
on conflict (source, message_id) do nothing;
