"""The commands that operators give, a module per group. Only `__main__` imports them."""
