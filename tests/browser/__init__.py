"""A package, for fixtures of its scope to end with its last test."""
