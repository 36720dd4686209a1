"""The question of a poll. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """The title and the names of the options."""

    title: str
    option_a: str
    option_b: str
