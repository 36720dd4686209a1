"""`voting load`: a load generator over HTTP, and the record of what its voters were told.

Tests and benchmarks share them. Its modules import no code that serves or counts votes.
"""
