"""Error messages of the pages, and the exception handler that renders them."""

from dataclasses import dataclass, field, replace
from typing import Any

import structlog
from litestar import Request
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.response import Template

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error message: what went wrong, and what that means for the vote."""

    status: int
    headline: str
    advice: str
    reason: str = "other"
    """Of a vote that was refused: one of `metrics.REASONS`."""
    advice_closed: str | None = None
    """In place of `advice` once voting is closed."""
    # Seconds. Not compared: the same problem may have another delay, which no page shows.
    retry_after: int | None = field(default=None, compare=False)

    def once_closed(self) -> "Problem":
        """Return the problem as pages show it once voting is closed."""
        return replace(self, advice=self.advice_closed or self.advice)

    def naming(self, page: str | None) -> "Problem":
        """Return the problem with the address of the page in its advice."""
        return replace(self, advice=self.advice.format(page=page or "the voting page itself"))

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
NOT_FOUND = Problem(404, "There is no such page.", "Check the address.")
NOT_ALLOWED = Problem(405, "This page can't be asked in that way.", "Go back and reload it.")
TOO_LARGE = Problem(
    413, "That is too much to read.", "Nothing was recorded. Go back and choose again.", "too_large"
)
INTERNAL_ERROR = Problem(500, "Something broke on our side.", "Please try again in a moment.")

# The admin page, before it looks at the poll
FOREIGN_HOST = Problem(
    421, "This page opens on this machine only.", "Open http://localhost with the same port."
)
FOREIGN_ORIGIN = Problem(
    403, "This came from another site.", "Nothing was changed. Open the page itself."
)
NO_TOKEN = Problem(
    403,
    "This page opens with its token only.",
    "Open the address that ends in ?token=…: voting up prints it at each start.",
)
OLD_FORM = Problem(
    403, "This form is out of date.", "Nothing was changed. Go back to the page and try again."
)

# A form of the admin page
_OUT_OF_DATE = "Nothing was changed. It shows the present state now."
CHANGED_MEANWHILE = Problem(409, "This page was out of date.", _OUT_OF_DATE)
OTHER_QUESTION = Problem(409, "The prepared questions were changed meanwhile.", _OUT_OF_DATE)
NOT_ASKED = Problem(
    409,
    "The next question was not asked.",
    "The round was opened again, the questions were changed, or the database was away. "
    "Look at the round, and press Next question again.",
)
NOT_SURE = Problem(503, "That may not be done everywhere yet.", "Look again in a moment.")
NOT_A_TIME = Problem(
    422, "That is not a time in the future.", "Nothing was changed. Choose a later one."
)
INVALID_QUESTION = Problem(422, "This can't be asked.", "Change it and try again.")
QUEUE_AWAY = Problem(
    503, "The queue can't be reached.", "Nothing was changed. Please try again in a moment."
)
DATABASE_AWAY = Problem(
    503, "The database can't be reached.", "Nothing was changed. Please try again in a moment."
)

# A vote
CROSS_ORIGIN = Problem(
    403,
    "This vote came from another site.",
    "It was not recorded. Open {page} and choose there.",
    "cross_origin",
)
# Its client has disconnected, so only the metric has this one.
INCOMPLETE_BODY = Problem(
    400, "That request can't be understood.", "Reload the page.", "invalid_form"
)
_FORM_ADVICE = "Nothing was recorded. Go back to the page and choose there."
NOT_A_FORM = Problem(415, "This is not what the voting page sends.", _FORM_ADVICE, "invalid_form")
NOT_A_CHOICE = Problem(422, "This is not one of the options.", _FORM_ADVICE, "invalid_form")
NO_COOKIE = Problem(
    400,
    "Your browser has to accept cookies to vote.",
    "Your vote was not recorded. Allow cookies for this site, reload the page and choose again.",
    "no_cookie",
)
# Browsers keep no cookie of https there.
NOT_ENCRYPTED = Problem(
    400,
    "To vote, open this page over https.",
    "Your vote was not recorded. Open {page} and choose there.",
    "no_cookie",
)
# The response replaces the cookie.
STRANGE_COOKIE = Problem(
    400,
    "Your browser's cookie is of another poll.",
    "Your vote was not recorded. The cookie is replaced now: please choose again.",
    "no_cookie",
)
FULL = Problem(
    503,
    "Too many votes are waiting to be counted.",
    "Your vote was not recorded. Please choose again in a minute.",
    "full",
    retry_after=30,
)
RATE_LIMITED = Problem(
    429,
    "That was too often.",
    "This vote was not recorded. The last recorded one counts. Please wait, then choose again.",
    "rate_limited",
    retry_after=60,
)
CLOSED = Problem(
    409,
    "Voting is closed.",
    "This vote was not recorded. If you had voted before, your last recorded vote counts.",
    "closed",
)
# The response has the next question.
ROUND_OVER = Problem(
    409,
    "That question is over.",
    "Your vote was not recorded. Here is the next one: please choose.",
    "round_over",
    advice_closed="Your vote was not recorded. Here is the next one.",
)
QUEUE_UNAVAILABLE = Problem(
    503,
    "We can't take votes right now.",
    "Your vote was not recorded. Please choose again in a moment.",
    "unavailable",
    retry_after=2,
)
UNKNOWN = Problem(
    503,
    "We don't know whether your vote was recorded.",
    "It may have been, or not. Please choose again: only your last choice counts.",
    "unknown",
    advice_closed="It may have been, or not.",
    retry_after=2,
)
# No response to a vote has these, only pages.
NO_QUESTION = replace(
    QUEUE_UNAVAILABLE,
    advice="The question is shown here as soon as it is known.",
    reason="other",
)
LOST = Problem(
    503,
    "Your vote may be lost.",
    "We lost votes that were not counted yet. Please choose again: only your last choice counts.",
    advice_closed="We lost votes that were not counted yet.",
)

# An export
_BUSY_ADVICE = "Please try again in a few seconds."
EXPORT_BUSY = Problem(
    503, "Others are downloading the result right now.", _BUSY_ADVICE, retry_after=5
)
DATABASE_UNAVAILABLE = Problem(
    503, "The result can't be read right now.", _BUSY_ADVICE, retry_after=5
)
_ROUND_ADVICE = "Those that are over are listed under /rounds."
NO_ROUND = Problem(404, "There is no such round.", _ROUND_ADVICE)
INVALID_ROUND = Problem(400, "A round is a number.", _ROUND_ADVICE)


def error_page(_: Request[Any, Any, Any], error: Exception) -> Template:
    """Render an exception as a page, as Litestar's exception handler for all of them.

    An unexpected exception is logged; the page shows nothing of it.
    """
    problem = _problem_of(error)
    headers = problem.headers
    if isinstance(error, MethodNotAllowedException) and error.headers:
        headers["Allow"] = error.headers["allow"].replace("GET", "GET, HEAD")
    return Template(
        "problem.html", context={"problem": problem}, status_code=problem.status, headers=headers
    )


def _problem_of(error: Exception) -> Problem:
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
