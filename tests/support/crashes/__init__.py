"""kill -9 on a running devnet: rounds of it under load, with what must hold afterwards (issue 6, point 5)."""
