"""The forms of the admin page: what they say, what may be done, what is to be confirmed."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, time, timedelta
from enum import StrEnum
from typing import Literal

from voting.database.questions import PreparedQuestion
from voting.poll.consequences import consequences, reveal_consequences
from voting.poll.lifecycle import Event, LifecycleState, Phase, Poll
from voting.poll.message import Message
from voting.poll.message import gettext as _
from voting.poll.question import Question
from voting.reconcile.changes import Status
from voting.web import errors
from voting.web.errors import Problem, ProblemError


class Action(StrEnum):
    """The buttons that change the poll."""

    KEEP = "keep"
    CLOSE = "close"
    CLOSE_1 = "close-1"
    CLOSE_5 = "close-5"
    CLOSE_10 = "close-10"
    CLOSE_AT = "close-at"
    REOPEN = "reopen"
    NEXT = "next"
    AGAIN = "again"
    REVEAL = "reveal"

    @property
    def kind(self) -> str:
        """One of `metrics.CHANGES`."""
        return self.partition("-")[0]


LABELS: Mapping[Action, Message] = {
    Action.KEEP: _("Keep open"),
    Action.CLOSE: _("Close now"),
    Action.REOPEN: _("Open again"),
    Action.NEXT: _("Next question"),
    Action.AGAIN: _("Same question again"),
    Action.REVEAL: _("Reveal the result"),
}

_NOW = {
    Phase.OPEN: _("Voting is open now."),
    Phase.COUNTING: _("Voting is closed now."),
    Phase.FINAL: _("The result is final now."),
}


@dataclass(frozen=True, slots=True)
class PollForm:
    """What a button of the page sends."""

    do: Action
    seen: str = ""
    """The state of the poll that the page showed."""
    next: str = ""
    """The prepared question that the page showed as the next."""
    round: int | None = None
    """The earlier round that is revealed."""
    confirm: bool = False
    time: str = ""
    """A time of day in UTC, such as 20:15, for `close-at`."""
    instant: str = ""
    """The same as a moment, with which admin.js replaces it, for a time of the browser's zone."""

    def confirmed(self) -> dict[str, object]:
        """Return the fields of the form that confirms this one."""
        fields = {"do": self.do, "seen": self.seen, "next": self.next, "confirm": "true"}
        return {**fields} if self.round is None else {**fields, "round": self.round}


@dataclass(frozen=True, slots=True)
class QuestionForm:
    do: Literal["add", "change", "up", "down", "remove"]
    id: int = 0
    revision: int = 0
    seen: str = ""
    """The prepared questions that the page showed."""
    once: str = ""
    """Another for each page: what is sent twice is added once."""
    title: str = ""
    names: str = ""
    """An option a line."""
    confirm: bool = False

    @property
    def question(self) -> Question:
        return Question.of(self.title, [each for each in self.names.splitlines() if each.strip()])

    @property
    def prepared(self) -> PreparedQuestion:
        return PreparedQuestion(self.id, self.question, self.revision)


@dataclass(frozen=True, slots=True)
class Confirmation:
    """A question with what is lost by a yes, and the form that the page showed, to send again."""

    lines: Sequence[Message]
    action: str
    label: Message
    fields: Mapping[str, object]


def allowed_actions(
    poll: Poll, *, hidden: bool, asking: bool, conflict: bool
) -> tuple[Action, ...]:
    """Return what may be done in the state that the poll is in, in the page's order.

    `hidden`: whether the totals are kept back. `asking`: the next question is being asked.
    `conflict`: Redis refuses the poll until an operator has decided.
    """
    is_open = poll.allows(Event.CLOSE)
    allowed = {
        Action.KEEP: is_open and (conflict or poll.lifecycle_state is LifecycleState.SCHEDULED),
        **dict.fromkeys(
            (Action.CLOSE, Action.CLOSE_1, Action.CLOSE_5, Action.CLOSE_10, Action.CLOSE_AT),
            is_open,
        ),
        Action.NEXT: not asking,
        Action.AGAIN: poll.allows(Event.START_ROUND),
        Action.REOPEN: not is_open,
        Action.REVEAL: hidden,
    }
    return tuple(do for do, is_allowed in allowed.items() if is_allowed)


def seen(poll: Poll) -> str:
    """Return what a form says of the poll that its page showed."""
    return f"{poll.round}.{poll.revision}.{poll.phase}"


def seen_question(prepared: PreparedQuestion) -> str:
    return f"{prepared.id}.{prepared.revision}"


def seen_questions(questions: Sequence[PreparedQuestion] | None) -> str:
    """Return what a form says of the questions and their order."""
    listed = " ".join(map(seen_question, questions or ()))
    return hashlib.sha256(listed.encode()).hexdigest()[:20]


def changed(seen: str, poll: Poll) -> Problem:
    """Say what has changed since the page showed the state `seen`."""
    number, phase = seen.partition(".")[0], seen.rpartition(".")[2]
    if number != str(poll.round):
        what = _("Another question is asked now: “%(title)s”.", title=poll.question.title)
    elif phase == poll.phase and poll.closes_at:
        what = _("Voting is open; its time to close has changed.")
    else:
        what = _NOW[poll.phase]
    return replace(errors.CHANGED_MEANWHILE, reasons=(what,))


def losses(form: PollForm, found: Status, prepared: PreparedQuestion | None) -> list[Message]:
    """Return what is to be confirmed, and what is lost by it; empty if nothing is.

    `prepared` is the question to ask next.
    """
    do = form.do
    if do is Action.REOPEN and found.phase is Phase.FINAL:
        return consequences(Event.REOPEN, found.poll, found.counts)
    if do in {Action.AGAIN, Action.NEXT}:
        question = prepared.question if prepared else None
        return consequences(Event.START_ROUND, found.poll, found.counts, question=question)
    if do is Action.REVEAL:
        return reveal_consequences(form.round or found.poll.round)
    return []


def closes_at(form: PollForm, now: datetime) -> datetime:
    """Return when to close. Raises ProblemError if that is not in the future."""
    if form.do is not Action.CLOSE_AT:
        return now + timedelta(minutes=int(form.do.removeprefix("close-")))
    try:
        if form.instant:
            at = datetime.fromisoformat(form.instant).astimezone(UTC)
        else:
            at = datetime.combine(now, time.fromisoformat(form.time), UTC)
            at += timedelta(days=at <= now)
    except (ValueError, OverflowError):
        raise ProblemError(errors.NOT_A_TIME) from None
    if at <= now:
        raise ProblemError(errors.NOT_A_TIME)
    return at


def draft_of(prepared: PreparedQuestion) -> QuestionForm:
    title, names = prepared.question.title, "\n".join(prepared.question.names)
    return QuestionForm("change", prepared.id, prepared.revision, title=title, names=names)
