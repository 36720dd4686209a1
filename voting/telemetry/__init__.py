"""Logs, metrics and traces. Any other package may use this one; it imports only settings."""
