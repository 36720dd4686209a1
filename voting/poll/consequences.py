"""What an operator's change does, in words: to be read before it is confirmed."""

from collections.abc import Iterator
from datetime import UTC, datetime

from voting.poll.lifecycle import Event, Phase, Poll
from voting.poll.question import Question
from voting.poll.results import VoteCounts


def consequences(
    event: Event,
    poll: Poll,
    counts: VoteCounts,
    *,
    closes_at: datetime | None = None,
    question: Question | None = None,
) -> list[str]:
    """Return a question to the operator and what follows from a yes, a line each.

    Empty if there is nothing to confirm. `closes_at` is the time of a planned close; the next round
    asks `question` or, without one, the same again.
    """
    match event:
        case Event.CLOSE | Event.SCHEDULE:
            lines = _close(poll, closes_at)
        case Event.REOPEN:
            lines = _reopen(poll, counts)
        case Event.START_ROUND:
            lines = _ask(poll, counts, question) if question else _ask_again(poll, counts)
        case _:  # not an operator's
            lines = iter(())
    return list(lines)


def reveal_consequences(number: int) -> list[str]:
    """Return the same for totals of a round, which are revealed."""
    return [f"Show the totals of round {number} to everybody?", "It can't be undone."]


def _close(poll: Poll, closes_at: datetime | None) -> Iterator[str]:
    yield f"Close round {poll.round} {f'at {in_utc(closes_at)}' if closes_at else 'now'}?"
    yield ("Votes are refused from then on. Ballots accepted before are counted, then it is final.")
    if poll.closes_at is not None:
        yield f"This replaces the close planned for {in_utc(poll.closes_at)}."


def _reopen(poll: Poll, counts: VoteCounts) -> Iterator[str]:
    if poll.phase is Phase.OPEN and poll.closes_at is not None:
        yield f"Keep round {poll.round} open? This cancels its close at {in_utc(poll.closes_at)}."
    if poll.phase is Phase.COUNTING:
        yield f"Reopen round {poll.round}? Its last ballots are being counted."
    if poll.final_at is not None:
        yield f"Reopen round {poll.round}? This revokes its final result:"
        yield f"{describe(poll.question, counts)}, final since {in_utc(poll.final_at)}."
        yield "It stays listed as revoked."


def _ask_again(poll: Poll, counts: VoteCounts) -> Iterator[str]:
    yield "Ask the same in the next round now?"
    yield f"This deletes the {counts.votes:,} votes of round {poll.round}."
    yield "Its totals and timeline are kept."


def _ask(poll: Poll, counts: VoteCounts, question: Question) -> Iterator[str]:
    yield f"Ask {question.title!r} in the next round now?"
    yield f"Round {poll.round}, {poll.question.title!r}, has {counts.votes:,} votes."
    if poll.phase is Phase.OPEN:
        yield "It is open: it is closed now, and final before the next begins."
    yield "Its totals and timeline are kept, its votes are deleted."


def describe(question: Question, counts: VoteCounts) -> str:
    """Return the votes of each option or, while those are hidden, of all together."""
    if counts.by_option is None:
        return f"{counts.votes:,} in total"
    return question.describe(counts.by_option)


def in_utc(at: datetime | None) -> str:
    return "?" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
