"""Real servers and roles under load, and faults in each of them."""
