"""Postgres: models, counting, totals, changes of the poll, prepared questions, schema and rights.

For the roles result, worker and admin, `reconcile` and the operator commands. It imports nothing of
Redis.
"""
