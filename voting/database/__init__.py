"""Postgres: models, counting, totals, changes of the poll, schema and rights.

For the roles result and worker, `reconcile` and the operator commands. It imports nothing of Redis.
"""
