"""The room of the HTTP API: what Ordering and others ask of us, checked, recorded in one transaction, and answered."""
