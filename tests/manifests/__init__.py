"""What `deploy/` renders to."""
