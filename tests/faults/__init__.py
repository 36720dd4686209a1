"""Real servers and roles under load, and everything that may happen to them."""
