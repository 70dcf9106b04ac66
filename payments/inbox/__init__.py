"""The room where Stripe's words arrive, by webhook or as answers, and are recorded on the payment."""
