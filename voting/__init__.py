"""A voting app: people pick one option of a question, and every acknowledged vote counts once."""

__version__ = "0.1.0"
