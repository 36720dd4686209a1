"""What needs both Redis and Postgres: keeping the poll in sync, audit, replay.

For the worker and the operator commands.
"""
