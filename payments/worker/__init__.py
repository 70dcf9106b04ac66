"""The room that calls Stripe for the commands in the worker's queues, one small module an operation."""
