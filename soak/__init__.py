"""`python -m soak`: every way of a payment's life under random faults, then every book held against every other."""
