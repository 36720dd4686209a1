"""The requests of a voter's browser and of a viewer's, and what their responses mean."""

import time
from dataclasses import dataclass
from http import HTTPStatus

from voting.load.client import Connection, NoResponse, NotSent, Response
from voting.load.record import Acknowledgement, Totals, VoteResult
from voting.poll.ballot import Choice, Version

_VOTER = 32  # hex digits
_SERVER_ERROR = HTTPStatus.INTERNAL_SERVER_ERROR

# The response header of the vote role.
_RECORDED = {
    "yes": Acknowledgement.ACKNOWLEDGED,
    "no": Acknowledgement.REFUSED,
    "unknown": Acknowledgement.UNKNOWN,
}


class PageError(Exception):
    """A URL is not the page that it should be; the message explains it."""


class PageUnavailable(PageError):
    """The page is there, but can't work at the moment."""


@dataclass(slots=True)
class Voter:
    """A voter's cookie, `name=value`, and the last choice that was sent with it."""

    cookie: str
    choice: Choice | None = None

    @property
    def id(self) -> str:
        return self.cookie.partition("=")[2][:_VOTER]


async def new_voter(vote_page: Connection) -> Voter:
    """Open the page without a cookie, and return the voter of the one that it sets.

    Raises PageError.
    """
    response = await _get(vote_page, "/")
    if cookie := _cookie(response, "voter"):
        return Voter(cookie)
    error = PageUnavailable if response.status >= _SERVER_ERROR else PageError
    raise error(f"{vote_page.url}/ is not a page to vote on: status {response.status}")


async def vote(vote_page: Connection, voter: Voter, choice: Choice) -> VoteResult:
    """Send a vote, once, and return what its voter is told."""
    voter.choice = choice
    response, version = Response(), None
    try:
        response = await vote_page.post("/vote", f"choice={choice}", f"Cookie: {voter.cookie}")
    except NotSent:
        acknowledgement = Acknowledgement.REFUSED
    except NoResponse:
        acknowledgement = Acknowledgement.NO_RESPONSE
    else:
        acknowledgement = _acknowledgement(response)
    receipt = _cookie(response, "ballot")
    if receipt and acknowledgement is Acknowledgement.ACKNOWLEDGED:
        version = Version.parse(receipt.partition(".")[2])
    at = round(time.time(), 3)
    return VoteResult(voter.id, choice, acknowledgement, version, response.status, at)


async def fetch_totals(result_page: Connection) -> Totals:
    """Raises PageError, also if the totals are stale."""
    response = await _get(result_page, "/api/tally")
    url = f"{result_page.url}/api/tally"
    if response.status >= _SERVER_ERROR:
        raise PageUnavailable(f"{url} has status {response.status}")
    try:
        fields = response.json()
        options = fields.get("options") or {}  # without them, the votes of each are hidden
        a, b = ((options.get(each) or {}).get("votes") for each in Choice)
        totals = Totals(a, b, int(fields["votes"]))
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PageError(f"{url} is not a result: status {response.status}") from error
    if fields.get("stale"):
        raise PageUnavailable(f"{url} is stale")
    return totals


async def _get(page: Connection, path: str) -> Response:
    try:
        return await page.get(path)
    except (NotSent, NoResponse) as error:
        raise PageError(f"no response from {page.url}{path}: {error}") from error


def _acknowledgement(response: Response) -> Acknowledgement:
    if known := _RECORDED.get(response.headers.get("voting-recorded", "")):
        return known
    # The response of a proxy: with a status of 4xx it has not passed the vote on.
    refused = HTTPStatus.BAD_REQUEST <= response.status < _SERVER_ERROR
    return Acknowledgement.REFUSED if refused else Acknowledgement.NO_RESPONSE


def _cookie(response: Response, name: str) -> str | None:
    """Return `name=value` of a cookie that the response sets, maybe with the prefix for HTTPS."""
    names = (each for each in (name, f"__Host-{name}") if each in response.cookies)
    return next((f"{each}={response.cookies[each]}" for each in names), None)
