"""The room that looks at Stripe when nobody tells us: lost answers, lost webhooks, lost commands, limits of time."""
