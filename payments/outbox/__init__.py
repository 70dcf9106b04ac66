"""The room of the outbox: what the world is told, and the rows that carry it."""
