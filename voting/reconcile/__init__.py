"""What needs both Redis and Postgres: keeping the poll in sync, changes of it, audit, replay.

For the worker, the admin page and the operator commands.
"""
