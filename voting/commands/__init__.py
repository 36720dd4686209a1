"""The command line: the group `voting` and the operator's commands. Only `__main__` imports it."""
