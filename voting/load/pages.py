"""The requests of a voter's browser and of a viewer's, and what their responses mean."""

import re
import time
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus

from voting.load.client import Connection, GivenUp, NoResponse, NotSent, Response
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
    """A voter's cookie, `name=value`, the last choice that was sent with it, and other cookies."""

    cookie: str
    choice: Choice | None = None
    jar: dict[str, str] = field(default_factory=dict)

    @property
    def id(self) -> str:
        return self.cookie.partition("=")[2][:_VOTER]

    @property
    def cookies(self) -> str:
        """The header with all cookies."""
        return "Cookie: " + "; ".join([self.cookie, *map("=".join, self.jar.items())])

    def note_sent(self, now: int) -> None:
        """Keep in a cookie when a vote is sent, as the page does."""
        name = self.cookie.partition("=")[0].replace("voter", "unanswered")
        first = self.jar.get(name, str(now)).partition(".")[0]
        self.jar[name] = f"{first}.{now}"

    def receive(self, response: Response) -> None:
        """Keep the cookies of a response."""
        jar = self.jar | response.cookies
        self.jar = {name: value for name, value in jar.items() if value}


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
    if vote_page.now is None:  # a page knows it when it is loaded
        with suppress(NotSent, NoResponse):
            await vote_page.get("/receipt", voter.cookies)
    if (sent := vote_page.now) is not None:
        voter.note_sent(sent)
    try:
        response = await vote_page.post("/vote", f"choice={choice}", voter.cookies)
    except NotSent:
        acknowledgement = Acknowledgement.REFUSED
    except NoResponse as error:
        # When the page gives up, the app refuses the vote, if it knows when the page has sent it.
        known = isinstance(error, GivenUp) and sent is not None
        acknowledgement = Acknowledgement.UNKNOWN if known else Acknowledgement.NO_RESPONSE
    else:
        acknowledgement = _acknowledgement(response)
        voter.receive(response)
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
    """Return `name=value` of a cookie of the response: with a prefix for HTTPS, or with a port."""
    pattern = re.compile(rf"(__Host-)?{name}(-\d+)?")
    names = filter(pattern.fullmatch, response.cookies)
    return next((f"{each}={response.cookies[each]}" for each in names), None)
