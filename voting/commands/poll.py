"""The commands that lead a poll through its life: status, open, close, reset."""

import argparse
import asyncio
import os
import re
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from typing import NoReturn

from redis.exceptions import RedisError
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.commands.context import as_json, one_line_for, say, with_servers
from voting.database.engine import DATABASE_ERRORS, in_one_line
from voting.database.poll import PollChanged, close_poll, reopen_poll, start_round
from voting.database.totals import fetch_final_results, fetch_result
from voting.poll.lifecycle import Event, Phase, Poll
from voting.poll.results import FinalResult, VoteCounts, publish
from voting.queue.stream import BallotStream, StreamMissing
from voting.reconcile.poll import finalize, reconcile
from voting.settings import ShowResultsSettings, load

# Seconds between two looks at a poll that is waited for.
PAUSE = 0.2

_STEP = re.compile(r"\+(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s)?")


@dataclass(frozen=True, slots=True)
class Status:
    """What an operator wants to know before changing anything."""

    poll: Poll
    phase: Phase
    counts: VoteCounts
    backlog: int | None
    """Accepted votes that are not counted yet; None where Redis can't tell."""
    dead_letters: int | None
    finals: list[FinalResult]
    """All totals that were ever declared final, the newest last."""


def status(arguments: argparse.Namespace) -> int:
    """Return 1 where a server can't be asked."""
    with one_line_for("the poll can't be read"):
        found = asyncio.run(with_servers(arguments, _look))
    say(as_json(found) if arguments.json else "\n".join(_lines(found)))
    return 0


def close(arguments: argparse.Namespace) -> int:
    """Return 1 where that fails, or where `--wait` is over before the totals are final."""

    async def work(stream: BallotStream, engine: AsyncEngine) -> None:
        at = None if arguments.at is None else await _moment(stream, arguments.at)
        found = await _look(stream, engine)
        if not found.poll.allows(Event.CLOSE):
            _end(1, f"round {found.poll.round} is closed already: {_when(found.poll)}")
        _confirm(arguments, *_what_a_close_does(found, at))
        await close_poll(engine, at=at)
        await _tell(stream, engine)
        if at is None and arguments.wait:
            await _until_final(stream, engine, arguments.wait)
        await _tell_status(stream, engine)

    return _run(arguments, "the poll can't be closed", work)


def open_(arguments: argparse.Namespace) -> int:
    """Return 1 where that fails."""

    async def work(stream: BallotStream, engine: AsyncEngine) -> None:
        found = await _look(stream, engine)
        if warnings := list(_what_opening_undoes(found)):
            _confirm(arguments, *warnings)
        await reopen_poll(engine, found.poll)
        await _tell(stream, engine)
        await _tell_status(stream, engine)

    return _run(arguments, "the poll can't be opened", work)


def reset(arguments: argparse.Namespace) -> int:
    """Return 1 where that fails, or where the round is not final."""

    async def work(stream: BallotStream, engine: AsyncEngine) -> None:
        found = await _look(stream, engine)
        if not found.poll.allows(Event.START_ROUND):
            _end(1, f"round {found.poll.round} is {found.phase}: close it, and wait for final")
        _confirm(
            arguments,
            f"Start round {found.poll.round + 1}, open at once?",
            f"Lost is who voted what: {found.counts.votes:,} votes of round {found.poll.round}.",
            "Its totals and its timeline are kept.",
        )
        await start_round(engine, found.poll.round)
        await _tell(stream, engine)
        await _tell_status(stream, engine)

    return _run(arguments, "the next round can't be started", work)


async def _moment(stream: BallotStream, text: str) -> datetime:
    try:
        return moment(text, datetime.fromtimestamp(await stream.clock(), UTC))
    except (ValueError, OverflowError) as error:
        _end(2, f"--at: {error}")


def moment(text: str, now: datetime) -> datetime:
    """Read a time: `20:15`, `2026-11-24T20:15`, or from now on `+10m`, `+1h30m`, `+90s`.

    Without an offset it is this machine's local time; a time of day is the next such. Raises
    ValueError where it can't be read, or has passed.
    """
    step = _STEP.fullmatch(text)
    if step and any(step.groups()):
        hours, minutes, seconds = (int(each or 0) for each in step.groups())
        return now + timedelta(hours=hours, minutes=minutes, seconds=seconds)
    try:
        today = datetime.combine(now.astimezone(), time.fromisoformat(text))
        at = today.astimezone()
        if at <= now:  # by the calendar: a day may have 23 hours
            at = (today + timedelta(days=1)).astimezone()
    except ValueError:
        try:
            at = datetime.fromisoformat(text).astimezone()
        except ValueError:
            raise ValueError("must be like 20:15, 2026-11-24T20:15 or +10m") from None
    if at <= now:
        raise ValueError(f"{_at(at)} has passed")
    return at.astimezone(UTC)


def _run(
    arguments: argparse.Namespace,
    failure: str,
    work: Callable[[BallotStream, AsyncEngine], Awaitable[None]],
) -> int:
    try:
        with one_line_for(failure):
            asyncio.run(with_servers(arguments, work))
    except PollChanged:
        raise SystemExit(f"voting: {failure}: somebody has changed it meanwhile") from None
    return 0


async def _look(stream: BallotStream, engine: AsyncEngine) -> Status:
    shown = publish(await fetch_result(engine), load(ShowResultsSettings, os.environ).show_results)
    backlog = letters = None
    # What Postgres says is enough to go on with.
    with suppress(StreamMissing, RedisError):
        letters = await stream.dead_letter_count()
        backlog = (await stream.progress()).backlog
    return Status(
        poll=shown.poll,
        phase=shown.poll.phase,
        counts=shown.counts,
        backlog=backlog,
        dead_letters=letters,
        finals=await fetch_final_results(engine),
    )


async def _tell(stream: BallotStream, engine: AsyncEngine) -> None:
    """Have it take effect, as any worker would within seconds."""
    try:
        await reconcile(engine, stream)
    except (RedisError, *DATABASE_ERRORS) as error:
        sys.exit(
            "voting: it is written down, but Redis could not be told: a worker will, once it can:"
            f" {in_one_line(error)}"
        )


async def _tell_status(stream: BallotStream, engine: AsyncEngine) -> None:
    with one_line_for("it is done, but the poll can't be read"):
        say(*_lines(await _look(stream, engine)))


async def _until_final(stream: BallotStream, engine: AsyncEngine, seconds: float) -> None:
    """Wait for the totals to be final, and declare them so, as any worker would within seconds."""
    try:
        async with asyncio.timeout(seconds):
            while (poll := (await fetch_result(engine)).poll).phase is not Phase.FINAL:
                with suppress(StreamMissing, RedisError):
                    if await finalize(engine, stream, poll):
                        continue
                await asyncio.sleep(PAUSE)
    except TimeoutError:
        sys.exit(f"voting: the poll is closed; the totals are not final after {seconds:g} s")


def _confirm(arguments: argparse.Namespace, question: str, *consequences: str) -> None:
    """Ask, unless told not to. Ends the process where the answer is not yes."""
    if arguments.yes:
        return
    if not sys.stdin.isatty():
        _end(2, "this changes the poll: say --yes", question, *consequences)
    say(question, *(f"  {each}" for each in consequences))
    if input("Type yes to go on: ").strip().lower() != "yes":
        _end(1, "nothing was changed")


def _what_a_close_does(found: Status, at: datetime | None) -> Iterator[str]:
    when = "now" if at is None else f"at {_at(at)}"
    yield f"Close round {found.poll.round} {when}?"
    yield "Nobody can vote from then on. What was accepted before is counted, then it is final."
    if found.poll.closes_at is not None:
        yield f"It was to close at {_at(found.poll.closes_at)}."


def _what_opening_undoes(found: Status) -> Iterator[str]:
    poll, counts = found.poll, found.counts
    if poll.phase is Phase.OPEN and poll.closes_at is not None:
        yield f"Keep round {poll.round} open? It does not close at {_at(poll.closes_at)} then."
    if poll.phase is Phase.COUNTING:
        yield f"Open round {poll.round} again? It is being counted."
    if poll.final_at is not None:
        yield f"Open round {poll.round} again? Its result is final no more:"
        yield f"a {counts.a:,}, b {counts.b:,}, final since {_at(poll.final_at)}."
        yield "`voting status` goes on to publish that it was."


def _lines(found: Status) -> Iterator[str]:
    poll = found.poll
    yield f"round         {poll.round}, {_when(poll)}"
    a, b = found.counts.a, found.counts.b
    yield (
        f"votes         {found.counts.votes} in all" if a is None else f"votes         a {a}, b {b}"
    )
    yield f"not counted   {'unknown' if found.backlog is None else found.backlog}"
    yield f"dead letters  {'unknown' if found.dead_letters is None else found.dead_letters}"
    if poll.queue_lost_at is not None:
        yield f"queue lost    {_at(poll.queue_lost_at)}: votes not counted by then are missing"
    stands = {each.round: each.final_at for each in found.finals} | {poll.round: poll.final_at}
    for final in found.finals:
        undone = "" if stands[final.round] == final.final_at else ", undone"
        totals = f"a {final.a}, b {final.b}{undone}"
        yield f"final         {_at(final.final_at)}, round {final.round}: {totals}"


def _when(poll: Poll) -> str:
    if poll.phase is Phase.FINAL and poll.final_at:
        return f"final since {_at(poll.final_at)}, closed at {_at(poll.closed_at)}"
    if poll.phase is Phase.COUNTING:
        return f"closed at {_at(poll.closed_at)}, counting" if poll.closed_at else "closing"
    return f"open, closes at {_at(poll.closes_at)}" if poll.closes_at else "open"


def _at(at: datetime | None) -> str:
    return "?" if at is None else f"{at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _end(code: int, *lines: str) -> NoReturn:
    print("voting:", "\n  ".join(lines), file=sys.stderr)  # noqa: T201 - the terminal is the place
    sys.exit(code)
