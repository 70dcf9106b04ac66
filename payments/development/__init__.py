"""What `payments up` needs to run everything on one machine; no production process imports it."""
