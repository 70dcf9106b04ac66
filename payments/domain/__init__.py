"""What a payment is and how it is decided: pure, without clock, network or database."""
