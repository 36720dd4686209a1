"""The queue of ballots: a Redis stream that one consumer group reads.

For the roles vote, worker and admin, `reconcile` and the operator commands. It imports no other
server.
"""
