"""The room of `payments demo`: some hundred checkouts driven by HTTP, and our books held against Stripe's."""
