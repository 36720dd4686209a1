"""`voting load`: a load generator over HTTP, and the record of what its voters were told.

Tests and benchmarks share it. It imports nothing that serves or counts votes.
"""
