"""The Payment Processing System: payments taken with Stripe, each exactly once, on PostgreSQL alone."""
