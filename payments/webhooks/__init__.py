"""The room of Stripe's webhooks: is it Stripe, is it an event, keep it. `deliveries.accept_delivery` does all three."""
