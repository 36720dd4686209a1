"""`voting up`: the whole app on this machine, with embedded servers. Only `__main__` imports it."""
