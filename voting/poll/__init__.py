"""Ballots, the life of a poll, its results and their formats. Pure: no input, no output.

Any other package may use this one.
"""
