"""What an operator's change does, in words: to be read before it is confirmed."""

from collections.abc import Iterator
from datetime import datetime

from voting.poll.lifecycle import Event, Phase, Poll
from voting.poll.message import Message, ngettext
from voting.poll.message import gettext as _
from voting.poll.question import Question
from voting.poll.results import VoteCounts


def consequences(
    event: Event,
    poll: Poll,
    counts: VoteCounts,
    *,
    closes_at: datetime | None = None,
    question: Question | None = None,
) -> list[Message]:
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


def reveal_consequences(number: int) -> list[Message]:
    """Return the same for totals of a round, which are revealed."""
    return [
        _("Show the totals of round %(number)s to everybody?", number=number),
        _("It can't be undone."),
    ]


def _close(poll: Poll, closes_at: datetime | None) -> Iterator[Message]:
    if closes_at:
        yield _("Close round %(number)s at %(time)s?", number=poll.round, time=closes_at)
    else:
        yield _("Close round %(number)s now?", number=poll.round)
    yield _(
        "Votes are refused from then on. Ballots accepted before are counted, then it is final."
    )
    if poll.closes_at is not None:
        yield _("This replaces the close planned for %(time)s.", time=poll.closes_at)


def _reopen(poll: Poll, counts: VoteCounts) -> Iterator[Message]:
    if poll.phase is Phase.OPEN and poll.closes_at is not None:
        yield _(
            "Keep round %(number)s open? This cancels its close at %(time)s.",
            number=poll.round,
            time=poll.closes_at,
        )
    if poll.phase is Phase.COUNTING:
        yield _("Reopen round %(number)s? Its last ballots are being counted.", number=poll.round)
    if poll.final_at is not None:
        yield _("Reopen round %(number)s? This revokes its final result:", number=poll.round)
        totals = _totals(poll.question, counts)
        yield _("%(totals)s, final since %(time)s.", totals=totals, time=poll.final_at)
        yield _("It stays listed as revoked.")


def _ask_again(poll: Poll, counts: VoteCounts) -> Iterator[Message]:
    yield _("Ask the same in the next round now?")
    yield ngettext(
        "This deletes the vote of round %(number)s.",
        "This deletes the %(num)s votes of round %(number)s.",
        counts.votes,
        number=poll.round,
    )
    yield _("Its totals and timeline are kept.")


def _ask(poll: Poll, counts: VoteCounts, question: Question) -> Iterator[Message]:
    yield _("Ask “%(title)s” in the next round now?", title=question.title)
    yield ngettext(
        "Round %(number)s, “%(title)s”, has %(num)s vote.",
        "Round %(number)s, “%(title)s”, has %(num)s votes.",
        counts.votes,
        number=poll.round,
        title=poll.question.title,
    )
    if poll.phase is Phase.OPEN:
        yield _("It is open: it is closed now, and final before the next begins.")
    yield _("Its totals and timeline are kept, its votes are deleted.")


def describe(question: Question, counts: VoteCounts) -> str:
    """Return the votes of each option or, while those are hidden, of all together."""
    return ", ".join(_totals(question, counts))


def _totals(question: Question, counts: VoteCounts) -> list[Message]:
    if counts.by_option is None:
        return [_("%(votes)s in total", votes=counts.votes)]
    return question.list_votes(counts.by_option)
