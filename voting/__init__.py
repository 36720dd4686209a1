"""A voting app: people pick one of two options, and every acknowledged vote counts once."""

__version__ = "0.1.0"
