"""`python -m crashes`: every process killed at every commit, statement and Stripe call, then every book compared."""
