"""The room of consumers: a queue for whoever wants to hear what happens to payments, and a role to read it with."""
