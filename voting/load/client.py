"""Voters over HTTP: each opens the page for a cookie, and votes with it."""

import json
import os
import socket
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, NamedTuple, Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from voting import __version__
from voting.load.record import Shown, Told
from voting.poll.ballot import Choice

# The app answers within three seconds; a proxy may wait longer for it.
_TIMEOUT = aiohttp.ClientTimeout(total=15, connect=5)

# Nothing was sent yet. The limit on connecting is the shorter one, so the other is hit afterwards.
_UNSENT = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)

_FORM = "application/x-www-form-urlencoded"

_VOTER = 32  # hex digits


class NoAnswer(Exception):
    """An address does not answer as it should; the message says how.

    `temporary`: somebody does answer, and says that it can't now.
    """

    def __init__(self, message: str, *, temporary: bool = False) -> None:
        super().__init__(message)
        self.temporary = temporary


@dataclass(slots=True)
class Voter:
    """A voter with its cookie, and the last choice it tried."""

    id: str
    cookie: str
    choice: Choice | None = None


class Answer(NamedTuple):
    """What a voter was told; `by_app`: by the app, not by what is between or by silence."""

    told: Told
    by_app: bool
    ballot: str | None = None


SILENCE = Answer(Told.UNKNOWN, by_app=False)


class Client:
    """Talks to both pages. `localhost` and names below it are this machine (RFC 6761, 6.3).

    A context: its connections, at most so many, are closed with it.
    """

    def __init__(self, vote_url: str, result_url: str, connections: int) -> None:
        self.vote_url = vote_url
        self.result_url = result_url
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=connections, resolver=_Resolver()),
            cookie_jar=aiohttp.DummyCookieJar(),  # voters have a cookie each
            timeout=_TIMEOUT,
            headers={"User-Agent": f"voting-load/{__version__}"},
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def open(self) -> Voter:
        """Open the page as somebody new. Raises NoAnswer."""
        url = f"{self.vote_url}/"
        try:
            async with self._session.get(url, allow_redirects=False) as response:
                await response.read()
                status, cookies = response.status, response.cookies
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _no_answer(url, error) from error
        for name in ("voter", "__Host-voter"):
            if name in cookies:
                value = cookies[name].value
                return Voter(value[:_VOTER], f"{name}={value}")
        temporary = status >= HTTPStatus.INTERNAL_SERVER_ERROR
        raise NoAnswer(f"{url} is no page to vote on: it answers {status}", temporary=temporary)

    async def vote(self, voter: Voter, choice: Choice) -> Answer:
        """Vote, once, whatever happens."""
        try:
            async with self._session.post(
                f"{self.vote_url}/vote",
                data=f"choice={choice}".encode(),
                headers={"Cookie": voter.cookie, "Content-Type": _FORM},
                allow_redirects=False,
            ) as response:
                answer = _answer(response)
                with suppress(aiohttp.ClientError, TimeoutError):
                    await response.read()
                return answer
        except _UNSENT:
            return Answer(Told.NO, by_app=False)
        except (aiohttp.ClientError, TimeoutError):
            return SILENCE

    async def shown(self) -> Shown:
        """Ask what the result page shows. Raises NoAnswer, also where that is not fresh."""
        url = f"{self.result_url}/api/tally"
        try:
            async with self._session.get(url) as response:
                status, body = response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise _no_answer(url, error) from error
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise NoAnswer(f"{url} answers {status}", temporary=True)
        try:
            fields = json.loads(body)
            shown = _shown(fields)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise NoAnswer(f"{url} is no result: it answers {status}") from error
        if fields.get("stale"):
            raise NoAnswer(f"{url} shows what it read last, not what there is", temporary=True)
        return shown


def _no_answer(url: str, error: Exception) -> NoAnswer:
    reason = str(error) or type(error).__name__
    if isinstance(error, aiohttp.ClientConnectorError) and (error.errno or 0) > 0:
        reason = os.strerror(error.errno or 0)
    return NoAnswer(f"nobody answers at {url}: {reason}")


def _answer(response: aiohttp.ClientResponse) -> Answer:
    said = response.headers.get("Voting-Recorded", "")
    if said in {*Told}:
        ballots = [each.value for name, each in response.cookies.items() if "ballot" in name]
        ballot = ballots[0].partition(".")[2] if ballots and said == Told.YES else None
        return Answer(Told(said), by_app=True, ballot=ballot)
    # Something between here and the app: 4xx is its refusal to pass the vote on.
    if HTTPStatus.BAD_REQUEST <= response.status < HTTPStatus.INTERNAL_SERVER_ERROR:
        return Answer(Told.NO, by_app=False)
    return SILENCE


def _shown(body: dict[str, Any]) -> Shown:
    options = body.get("options") or {}
    a, b = ((options.get(key.value) or {}).get("votes") for key in Choice)
    return Shown(a, b, int(body["votes"]))


class _Resolver(AbstractResolver):
    def __init__(self) -> None:
        self._others = aiohttp.DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        if host != "localhost" and not host.endswith(".localhost"):
            return await self._others.resolve(host, port, family)
        return [
            ResolveResult(
                hostname=host,
                host="127.0.0.1",
                port=port,
                family=socket.AF_INET,
                proto=socket.IPPROTO_TCP,
                flags=socket.AI_NUMERICHOST,
            )
        ]

    async def close(self) -> None:
        await self._others.close()
