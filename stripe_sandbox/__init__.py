"""A stand-in for Stripe's API, written from Stripe's documentation: own process, own port, own state.

It imports nothing from ``payments``; tests steer and read it over HTTP only. See ``docs/stripe-sandbox.md``.
"""
