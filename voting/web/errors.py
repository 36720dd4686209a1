"""Error messages of the pages, and the exception handler that renders them."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import structlog
from litestar import Request
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.response import Template

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Problem:
    """An error message: what went wrong, and what that means for the vote."""

    status: HTTPStatus
    headline: str
    advice: str
    # Seconds. Not compared: the same problem may have another delay, which no page shows.
    retry_after: int | None = field(default=None, compare=False)

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Cache-Control": "no-store"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return headers


class ProblemError(Exception):
    """Ends a request with a problem as its response."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.headline)
        self.problem = problem


# Any page
NOT_FOUND = Problem(HTTPStatus.NOT_FOUND, "There is no such page.", "Check the address.")
NOT_ALLOWED = Problem(
    HTTPStatus.METHOD_NOT_ALLOWED, "This page can't be asked in that way.", "Go back and reload it."
)
TOO_LARGE = Problem(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "That is too much to read.",
    "Nothing was recorded. Go back and choose again.",
)
INTERNAL_ERROR = Problem(
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "Something broke on our side.",
    "Please try again in a moment.",
)


def bad_request(status: HTTPStatus) -> Problem:
    """Return the problem of a request that is malformed in some other way."""
    return Problem(status, "That request can't be understood.", "Reload the page.")


# A vote
CROSS_ORIGIN = Problem(
    HTTPStatus.FORBIDDEN,
    "This vote came from another site.",
    "It was not recorded. Open the voting page itself and choose there.",
)
NO_COOKIE = Problem(
    HTTPStatus.BAD_REQUEST,
    "Your browser has to accept cookies to vote.",
    "Your vote was not recorded. Allow cookies for this site, reload the page and choose again.",
)
RATE_LIMITED = Problem(
    HTTPStatus.TOO_MANY_REQUESTS,
    "That was too often.",
    "This vote was not recorded. The one before it counts. Please wait, then choose again.",
    retry_after=60,
)
CLOSED = Problem(
    HTTPStatus.CONFLICT,
    "Voting is closed.",
    "This vote was not recorded. If you had voted before, that vote counts.",
)
QUEUE_UNAVAILABLE = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "We can't take votes right now.",
    "Your vote was not recorded. Please choose again in a moment.",
    retry_after=2,
)
FULL = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many votes are waiting to be counted.",
    "Your vote was not recorded. Please choose again in a minute.",
    retry_after=30,
)
UNKNOWN = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "We don't know whether your vote was recorded.",
    "It may have been, or not. Please choose again: only your last choice counts.",
    retry_after=2,
)
_FORM_ADVICE = "Nothing was recorded. Go back to the page and choose there."
INVALID_FORM = {
    status: Problem(status, headline, _FORM_ADVICE)
    for status, headline in (
        (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "This is not what the voting page sends."),
        (HTTPStatus.UNPROCESSABLE_ENTITY, "This is not one of the two choices."),
    )
}

# An export
EXPORT_BUSY = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Others are downloading the result right now.",
    "Please try again in a few seconds.",
    retry_after=5,
)
DATABASE_UNAVAILABLE = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The result can't be read right now.",
    "Please try again in a few seconds.",
    retry_after=5,
)
NO_ROUND = Problem(
    HTTPStatus.NOT_FOUND,
    "There is no such round.",
    "Leave the round out of the address for the one that runs now.",
)
INVALID_ROUND = Problem(
    HTTPStatus.BAD_REQUEST,
    "A round is a number.",
    "Leave the round out of the address for the one that runs now.",
)


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
    status = error.status_code if isinstance(error, HTTPException) else None
    known = {problem.status: problem for problem in (NOT_FOUND, NOT_ALLOWED, TOO_LARGE)}
    if status in known:
        return known[HTTPStatus(status)]
    if status is not None and status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return bad_request(HTTPStatus(status))
    log.error("a request failed", exc_info=error)
    return INTERNAL_ERROR
