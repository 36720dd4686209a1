"""Error messages of the pages, and which exception has which."""

from dataclasses import dataclass, field, replace

import structlog
from litestar.exceptions import HTTPException

from voting.poll.message import Message
from voting.poll.message import gettext as _

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error message: what went wrong, and what that means for the vote."""

    status: int
    headline: Message
    advice: Message
    reason: str = "other"
    """Of a vote that was refused: one of `metrics.REASONS`."""
    advice_closed: Message | None = None
    """In place of `advice` once voting is closed."""
    reasons: tuple[Message, ...] = ()
    """Shown before the advice."""
    # Seconds. Not compared: the same problem may have another delay, which no page shows.
    retry_after: int | None = field(default=None, compare=False)

    def once_closed(self) -> "Problem":
        """Return the problem as pages show it once voting is closed."""
        return replace(self, advice=self.advice_closed or self.advice)

    def naming(self, page: str | None) -> "Problem":
        """Return the problem with the address of the page in its advice."""
        return replace(self, advice=_(self.advice.msgid, page=page or _("the voting page itself")))

    @property
    def headers(self) -> dict[str, str]:
        retry = {} if self.retry_after is None else {"Retry-After": str(self.retry_after)}
        return {"Cache-Control": "no-store", **retry}


class ProblemError(Exception):
    """Ends a request with a problem as its response."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.headline)
        self.problem = problem


# Any page
NOT_FOUND = Problem(404, _("There is no such page."), _("Check the address."))
NOT_ALLOWED = Problem(405, _("This page can't be asked in that way."), _("Go back and reload it."))
TOO_LARGE = Problem(
    413,
    _("That is too much to read."),
    _("Nothing was recorded. Go back and choose again."),
    "too_large",
)
INTERNAL_ERROR = Problem(500, _("Something broke on our side."), _("Please try again in a moment."))

# The admin page, before it looks at the poll
FOREIGN_HOST = Problem(
    421, _("This page opens on this machine only."), _("Open http://localhost with the same port.")
)
FOREIGN_ORIGIN = Problem(
    403, _("This came from another site."), _("Nothing was changed. Open the page itself.")
)
NO_TOKEN = Problem(
    403,
    _("This page opens with its token only."),
    _("Open the address that ends in ?token=…: voting up prints it at each start."),
)
OLD_FORM = Problem(
    403,
    _("This form is out of date."),
    _("Nothing was changed. Go back to the page and try again."),
)

# A form of the admin page
_OUT_OF_DATE = _("Nothing was changed. It shows the present state now.")
CHANGED_MEANWHILE = Problem(409, _("This page was out of date."), _OUT_OF_DATE)
OTHER_QUESTION = Problem(409, _("The prepared questions were changed meanwhile."), _OUT_OF_DATE)
NOT_ASKED = Problem(
    409,
    _("The next question was not asked."),
    _(
        "The round was opened again, the questions were changed, or the database was away. "
        "Look at the round, and press Next question again."
    ),
)
NOT_SURE = Problem(503, _("That may not be done everywhere yet."), _("Look again in a moment."))
NOT_A_TIME = Problem(
    422, _("That is not a time in the future."), _("Nothing was changed. Choose a later one.")
)
INVALID_QUESTION = Problem(422, _("This can't be asked."), _("Change it and try again."))
QUEUE_AWAY = Problem(
    503, _("The queue can't be reached."), _("Nothing was changed. Please try again in a moment.")
)
DATABASE_AWAY = Problem(
    503,
    _("The database can't be reached."),
    _("Nothing was changed. Please try again in a moment."),
)

# A vote
CROSS_ORIGIN = Problem(
    403,
    _("This vote came from another site."),
    _("It was not recorded. Open %(page)s and choose there."),
    "cross_origin",
)
# Its client has disconnected, so only the metric has this one.
INCOMPLETE_BODY = Problem(
    400, _("That request can't be understood."), _("Reload the page."), "invalid_form"
)
_FORM_ADVICE = _("Nothing was recorded. Go back to the page and choose there.")
NOT_A_FORM = Problem(
    415, _("This is not what the voting page sends."), _FORM_ADVICE, "invalid_form"
)
NOT_A_CHOICE = Problem(422, _("This is not one of the options."), _FORM_ADVICE, "invalid_form")
NO_COOKIE = Problem(
    400,
    _("Your browser has to accept cookies to vote."),
    _("Your vote was not recorded. Allow cookies for this site, reload the page and choose again."),
    "no_cookie",
)
# Browsers keep no cookie of https there.
NOT_ENCRYPTED = Problem(
    400,
    _("To vote, open this page over https."),
    _("Your vote was not recorded. Open %(page)s and choose there."),
    "no_cookie",
)
# The response replaces the cookie.
STRANGE_COOKIE = Problem(
    400,
    _("Your browser's cookie is of another poll."),
    _("Your vote was not recorded. The cookie is replaced now: please choose again."),
    "no_cookie",
)
FULL = Problem(
    503,
    _("Too many votes are waiting to be counted."),
    _("Your vote was not recorded. Please choose again in a minute."),
    "full",
    retry_after=30,
)
RATE_LIMITED = Problem(
    429,
    _("That was too often."),
    _("This vote was not recorded. The last recorded one counts. Please wait, then choose again."),
    "rate_limited",
    retry_after=60,
)
CLOSED = Problem(
    409,
    _("Voting is closed."),
    _("This vote was not recorded. If you had voted before, your last recorded vote counts."),
    "closed",
)
# The response has the next question.
ROUND_OVER = Problem(
    409,
    _("That question is over."),
    _("Your vote was not recorded. Here is the next one: please choose."),
    "round_over",
    advice_closed=_("Your vote was not recorded. Here is the next one."),
)
QUEUE_UNAVAILABLE = Problem(
    503,
    _("We can't take votes right now."),
    _("Your vote was not recorded. Please choose again in a moment."),
    "unavailable",
    retry_after=2,
)
UNKNOWN = Problem(
    503,
    _("We don't know whether your vote was recorded."),
    _("It may have been, or not. Please choose again: only your last choice counts."),
    "unknown",
    advice_closed=_("It may have been, or not."),
    retry_after=2,
)
# No response to a vote has these, only pages.
NO_QUESTION = replace(
    QUEUE_UNAVAILABLE,
    advice=_("The question is shown here as soon as it is known."),
    reason="other",
)
LOST = Problem(
    503,
    _("Your vote may be lost."),
    _(
        "We lost votes that were not counted yet. Please choose again: "
        "only your last choice counts."
    ),
    advice_closed=_("We lost votes that were not counted yet."),
)

# An export
_BUSY_ADVICE = _("Please try again in a few seconds.")
EXPORT_BUSY = Problem(
    503, _("Others are downloading the result right now."), _BUSY_ADVICE, retry_after=5
)
DATABASE_UNAVAILABLE = Problem(
    503, _("The result can't be read right now."), _BUSY_ADVICE, retry_after=5
)
_ROUND_ADVICE = _("Those that are over are listed under /rounds.")
NO_ROUND = Problem(404, _("There is no such round."), _ROUND_ADVICE)
INVALID_ROUND = Problem(400, _("A round is a number."), _ROUND_ADVICE)


def problem_of(error: Exception) -> Problem:
    """Return what a page says of an exception: of an unexpected one, which is logged, nothing."""
    if isinstance(error, ProblemError):
        return error.problem
    if isinstance(error, HTTPException):
        for problem in (OLD_FORM, NOT_FOUND, NOT_ALLOWED, TOO_LARGE):
            if problem.status == error.status_code:
                return problem
        if error.status_code < INTERNAL_ERROR.status:
            return Problem(error.status_code, INCOMPLETE_BODY.headline, INCOMPLETE_BODY.advice)
    log.error("a request failed", exc_info=error)
    return INTERNAL_ERROR
