"""The room of pgmq queues as their readers see them: leases, and what only the holder of a lease may do."""
