"""The room that talks to Stripe, and turns whatever comes back into a closed set of outcomes. It knows no database."""
