"""`voting up`: the whole app with embedded servers on this machine. Only `__main__` imports it."""
