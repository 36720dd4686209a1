"""The requests of a voter's browser and of a viewer's, and what their responses mean."""

import re
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from http import HTTPStatus
from typing import NamedTuple

from voting.load.client import Connection, GivenUp, NoResponse, NotSent, Response
from voting.load.record import Acknowledgement, Totals, VoteResult
from voting.poll.ballot import Choice, Version

_VOTER = 32  # hex digits

# The form of the vote page: the hidden input with the round, and a button for each option.
_FIELD = re.compile(rb'<(?:input|button)\b[^>]*\bname="(round|choice)"[^>]*\bvalue="(\w+)"')
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


class Form(NamedTuple):
    """What the form of a vote page offers: the options of a round."""

    round: int
    choices: tuple[Choice, ...]


def read_form(page: bytes) -> Form | None:
    """Return the form of a vote page; None if the page has none."""
    return _parse_form(page[page.find(b"<form") : page.find(b"</form>")])


@lru_cache(maxsize=64)  # most voters get the same: parsing is a tenth of a vote's time
def _parse_form(form: bytes) -> Form | None:
    fields = _FIELD.findall(form)
    with suppress(ValueError):
        [number] = [int(value) for name, value in fields if name == b"round"]
        choices = tuple(Choice(value.decode()) for name, value in fields if name == b"choice")
        return Form(number, choices) if choices else None
    return None


def offered(form: Form, options: Collection[Choice] | None) -> Sequence[Choice]:
    """Return those of `options` (None: of all) that the form has. Raises PageError without any."""
    if options is None:
        return form.choices
    if found := [each for each in form.choices if each in options]:
        return found
    raise PageError(f"round {form.round} has none of the options {', '.join(sorted(options))}")


@dataclass(slots=True)
class Voter:
    """A voter's cookie, `name=value`, the form that its browser shows, and other cookies.

    `choice` is the last that was sent with that form.
    """

    cookie: str
    form: Form
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
        # The refusal of a vote for an earlier round is the page of the next question.
        if response.status == HTTPStatus.CONFLICT and (form := read_form(response.body)):
            if form.round != self.form.round:
                self.choice = None
            self.form = form


async def new_voter(vote_page: Connection) -> Voter:
    """Open the page without a cookie, and return the voter of the one that it sets.

    Raises PageError.
    """
    response = await _get(vote_page, "/")
    cookie, form = _cookie(response, "voter"), read_form(response.body)
    if cookie and form:
        return Voter(cookie, form)
    error = PageUnavailable if response.status >= _SERVER_ERROR else PageError
    raise error(f"{vote_page.url}/ is not a page to vote on: status {response.status}")


async def vote(vote_page: Connection, voter: Voter, choice: Choice) -> VoteResult:
    """Send a vote for the round that its voter sees, once, and return what its voter is told."""
    number = voter.form.round
    voter.choice = choice
    response, version = Response(), None
    if vote_page.now is None:  # a page knows it when it is loaded
        with suppress(NotSent, NoResponse):
            await vote_page.get("/", voter.cookies)
    if (sent := vote_page.now) is not None:
        voter.note_sent(sent)
    try:
        response = await vote_page.post("/vote", f"round={number}&choice={choice}", voter.cookies)
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
    return VoteResult(voter.id, choice, acknowledgement, version, response.status, at, number)


async def fetch_totals(result_page: Connection, number: int | None = None) -> Totals:
    """Return the totals of the current round, or of an earlier one.

    Raises PageError, also if the totals are stale.
    """
    path = "/api/tally" if number is None else f"/export.json?round={number}"
    response = await _get(result_page, path)
    url = f"{result_page.url}{path}"
    if response.status >= _SERVER_ERROR:
        raise PageUnavailable(f"{url} has status {response.status}")
    try:
        fields = response.json()
        by_option = {Choice(each["key"]): each["votes"] for each in fields["options"]}
        hidden = None in by_option.values()
        totals = Totals(int(fields["round"]), None if hidden else by_option, int(fields["votes"]))
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
