"""The requests of a voter's browser and of a viewer's, and what their responses mean."""

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from voting.load.client import Connection, NoResponse, NotSent, Response
from voting.load.record import Acknowledgement, Totals, VoteResult
from voting.poll.ballot import Choice, Version

_VOTER = 32  # hex digits

# The response header of the vote role.
_RECORDED = {
    "yes": Acknowledgement.ACKNOWLEDGED,
    "no": Acknowledgement.REFUSED,
    "unknown": Acknowledgement.UNKNOWN,
}


class PageError(Exception):
    """A URL is not the page that it should be; the message explains it.

    `temporary`: the page is there, but can't work at the moment.
    """

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


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
    for name in ("voter", "__Host-voter"):
        if name in response.cookies:
            return Voter(f"{name}={response.cookies[name]}")
    temporary = response.status >= HTTPStatus.INTERNAL_SERVER_ERROR
    raise PageError(
        f"{vote_page.url}/ is not a page to vote on: status {response.status}", temporary=temporary
    )


async def vote(vote_page: Connection, voter: Voter, choice: Choice) -> VoteResult:
    """Send a vote, once, and return what its voter is told."""
    voter.choice = choice
    response = Response()
    try:
        response = await vote_page.post("/vote", f"choice={choice}", f"Cookie: {voter.cookie}")
    except NotSent:
        acknowledgement = Acknowledgement.REFUSED
    except NoResponse:
        acknowledgement = Acknowledgement.NO_RESPONSE
    else:
        acknowledgement = _acknowledgement(response)
    version = _version(response) if acknowledgement is Acknowledgement.ACKNOWLEDGED else None
    at = round(time.time(), 3)
    return VoteResult(voter.id, choice, acknowledgement, version, response.status, at)


async def fetch_totals(result_page: Connection) -> Totals:
    """Raises PageError, also if the totals are stale."""
    response = await _get(result_page, "/api/tally")
    url = f"{result_page.url}/api/tally"
    if response.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        raise PageError(f"{url} has status {response.status}", temporary=True)
    try:
        fields = response.json()
        totals = _totals(fields)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise PageError(f"{url} is not a result: status {response.status}") from error
    if fields.get("stale"):
        raise PageError(f"{url} is stale", temporary=True)
    return totals


async def _get(page: Connection, path: str) -> Response:
    try:
        return await page.get(path)
    except (NotSent, NoResponse) as error:
        raise PageError(f"no response from {page.url}{path}: {error}") from error


def _acknowledgement(response: Response) -> Acknowledgement:
    recorded = response.headers.get("voting-recorded", "")
    if recorded in _RECORDED:
        return _RECORDED[recorded]
    # The response of a proxy: with a status of 4xx it has not passed the vote on.
    if HTTPStatus.BAD_REQUEST <= response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return Acknowledgement.REFUSED
    return Acknowledgement.NO_RESPONSE


def _version(response: Response) -> Version | None:
    """Read the ballot's version from the cookie of the receipt."""
    for name in ("ballot", "__Host-ballot"):
        if name in response.cookies:
            return Version.parse(response.cookies[name].partition(".")[2])
    return None


def _totals(fields: dict[str, Any]) -> Totals:
    options = fields.get("options") or {}
    a, b = ((options.get(key.value) or {}).get("votes") for key in Choice)
    return Totals(a, b, int(fields["votes"]))
