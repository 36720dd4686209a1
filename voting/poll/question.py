"""What a poll asks. Pure."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A poll's title and the name of each option."""

    title: str
    option_a: str
    option_b: str
