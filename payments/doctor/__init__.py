"""The room of `payments doctor`: what an operator wants to know first, and what to do about each answer."""
