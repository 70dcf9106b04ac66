-- name: notify
-- Wakes the listeners of several channels at once; a statement of its own, never part of a working transaction.
select pg_notify(channel, payload) from unnest(%(channels)s::text[], %(payloads)s::text[]) as pending (channel, payload);

-- name: sign_of_life
-- Whether the connection still leads to a server.
select 1;
