-- name: create
-- A new key of a client.
insert into payments.api_keys (key_id, client_id, key_hash, scopes, expires_at)
values (%(key_id)s, %(client_id)s, %(key_hash)s, %(scopes)s, %(expires_at)s);

-- name: list
-- All keys, the newest first.
select key_id, client_id, scopes, created_at, expires_at, revoked_at from payments.api_keys order by created_at desc;

-- name: revoke
-- Ends a key.
update payments.api_keys set revoked_at = now() where key_id = %(key_id)s and revoked_at is null;

-- name: revoke_client
-- Ends all keys of a client.
update payments.api_keys set revoked_at = now() where client_id = %(client_id)s and revoked_at is null;
