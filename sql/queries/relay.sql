-- name: dispatch
-- Sends the next rows of a lane: how many it went past, 0 when caught up, -1 when another relay is at it.
select payments.dispatch(%(queue)s::text, %(rows_max)s::int);

-- name: look
-- Every lane there is, and whether it has something to do; one statement for all.
select queue_name, has_work from payments.lanes_with_work();
