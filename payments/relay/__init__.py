"""The relay: carries events from the outbox to the queues that are bound to them.

Guarantee: each outbox row reaches each bound queue exactly once, in the order of the outbox; rows that commit late come
late. The batch and its record are one transaction (payments.dispatch), so a relay may die at any instruction, and any
number may run at once. Each queue has a lane of its own: one that fails stops alone and goes on where it stood.

Do not add: state that outlives a statement, a call to anything but PostgreSQL, rows that leave the database.

Shutdown: the batch under way is finished, unless that takes longer than half a second: then it is rolled back.
"""
