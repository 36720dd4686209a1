"""The commands for leading a vote: status, ask, close, open, reset, reveal."""

import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import click
from sqlalchemy.ext.asyncio import AsyncEngine

from voting.commands import options
from voting.commands.context import environment, exit_on_error, run_on_servers, to_json
from voting.commands.when import Moment, moment, resolve
from voting.database.poll import close_poll, reopen_poll, reveal_results, start_round
from voting.database.totals import fetch_result
from voting.poll.consequences import consequences, describe, reveal_consequences
from voting.poll.lifecycle import Event, Phase, Poll
from voting.poll.message import in_utc
from voting.queue.state import QueueState
from voting.reconcile.changes import (
    Change,
    Status,
    change_poll,
    fetch_settled_status,
    fetch_status,
    wait_until_final,
)
from voting.settings import ShowResultsSettings, load_settings


@click.command()
@options.data
@options.json
def status(data: Path | None, *, json_output: bool) -> None:
    """Show the state of the poll.

    Lists the final totals of all rounds, and those that a reopened poll has revoked.
    """
    found = run_on_servers(data, "the poll can't be read", partial(_fetch_status, data))
    click.echo(to_json(found) if json_output else "\n".join(_lines(found)))


@click.command()
@options.data
@click.option(
    "--at",
    type=moment,
    metavar="TIME",
    help="Close at this time: 20:15, 2026-11-24T20:15, +10m (default: now).",
)
@options.wait(help="Wait this long for the totals to be final; exit with 1 if they are not.")
@options.yes
def close(data: Path | None, at: Moment | None, wait: float, *, yes: bool) -> None:
    """Close the poll, now or at a time.

    Votes are refused from then on. Totals are final once all accepted ballots are counted.
    """
    failure = "the poll can't be closed"
    plan = partial(_plan_until, data, at=at, option="--at")
    found, closes_at = run_on_servers(data, failure, plan)
    poll = found.poll
    if not poll.allows(Event.CLOSE):
        raise click.ClickException(f"round {poll.round} is closed already: {_state(poll)}")
    if not yes:
        event = Event.SCHEDULE if closes_at else Event.CLOSE
        _confirm(consequences(event, found.poll, found.counts, closes_at=closes_at))
    wait_for_totals = 0 if closes_at else wait
    _change(data, failure, partial(close_poll, at=closes_at, seen=poll), wait_for_totals)


@click.command("open")
@options.data
@options.yes
def reopen(data: Path | None, *, yes: bool) -> None:
    """Reopen the poll, or cancel a planned close.

    Reopening a final poll revokes its result.
    """
    failure = "the poll can't be opened"
    found = run_on_servers(data, failure, partial(_plan, data))
    if not yes:
        _confirm(consequences(Event.REOPEN, found.poll, found.counts))
    _change(data, failure, partial(reopen_poll, seen=found.poll))


@click.command()
@options.data
@options.yes
def reset(data: Path | None, *, yes: bool) -> None:
    """Ask the same question again.

    In the next round. The poll must be final: its totals and timeline are kept, its votes are
    deleted.
    """
    failure = "the next round can't be started"
    found = run_on_servers(data, failure, partial(_plan, data))
    number = found.poll.round
    if not found.poll.allows(Event.START_ROUND):
        raise click.ClickException(
            f"round {number} is {found.phase}: close it and wait until it is final"
        )
    if not yes:
        _confirm(consequences(Event.START_ROUND, found.poll, found.counts))
    _change(data, failure, partial(start_round, ended=number, question=found.poll.question))


@click.command()
@options.data
@click.option("--round", "number", type=int, metavar="N", help="Reveal an earlier round.")
@options.yes
def reveal(data: Path | None, number: int | None, *, yes: bool) -> None:
    """Show the totals that SHOW_RESULTS hides.

    Of the round, or of an earlier one. It can't be undone.
    """
    failure = "the totals can't be revealed"
    seen = run_on_servers(data, failure, partial(_plan, data)).poll
    number = seen.round if number is None else number
    if not 0 < number <= seen.round:
        raise click.BadParameter(f"there is no round {number}", param_hint="--round")
    if not yes:
        _confirm(reveal_consequences(number))

    async def apply(state: QueueState, engine: AsyncEngine) -> None:
        await reveal_results(engine, seen, number=number)
        await _show(data, state, engine)

    run_on_servers(data, failure, apply)


@click.command()
@click.argument("title")
@click.argument("names", metavar="OPTION...", nargs=-1, required=True)
@options.data
@click.option(
    "--close-at",
    type=moment,
    metavar="TIME",
    help="Close the round at this time: 20:15, 2026-11-24T20:15, +10m.",
)
@options.yes
def ask(
    title: str,
    names: tuple[str, ...],
    data: Path | None,
    close_at: Moment | None,
    *,
    yes: bool,
) -> None:
    """Ask the next question.

    It has two to twelve options, and a round of its own. If a round is open, it is closed, and its
    totals are final first. They are kept, its votes are deleted.
    """
    question = options.parse_question(title, names)
    failure = "the question can't be asked"
    plan = partial(_plan_until, data, at=close_at, option="--close-at")
    found, closes_at = run_on_servers(data, failure, plan)
    if not yes:
        _confirm(consequences(Event.START_ROUND, found.poll, found.counts, question=question))
    poll = found.poll

    async def apply(state: QueueState, engine: AsyncEngine) -> None:
        if poll.phase is Phase.OPEN:
            then = "the question is not asked yet: ask again"
            await change_poll(state, engine, partial(close_poll, seen=poll), then=then)
        if poll.phase is not Phase.FINAL:
            await wait_until_final(state, engine, poll, show=partial(click.echo, err=True))
        # A duration begins with the round. Another time may have passed.
        at = close_at if isinstance(close_at, timedelta) else closes_at
        closing = await _resolve(state, at, "--close-at")
        start = partial(start_round, ended=poll.round, question=question, closes_at=closing)
        await change_poll(state, engine, start)
        await _show(data, state, engine)

    run_on_servers(data, failure, apply)


def _change(
    data: Path | None,
    failure: str,
    change: Change,
    wait: float = 0,
) -> None:
    """Change the poll in both servers, wait for its final totals, and print the new status."""

    async def apply(state: QueueState, engine: AsyncEngine) -> None:
        await change_poll(state, engine, change)
        if wait:
            with exit_on_error("the poll is closed, but its totals are not known to be final"):
                poll = (await fetch_result(engine)).poll
                await wait_until_final(state, engine, poll, wait)
        await _show(data, state, engine)

    run_on_servers(data, failure, apply)


async def _resolve(state: QueueState, at: Moment | None, option: str) -> datetime | None:
    """Return the time by Redis' clock, which will close the poll."""
    if at is None:
        return None
    return resolve(at, datetime.fromtimestamp(await state.clock(), UTC), option)


async def _show(data: Path | None, state: QueueState, engine: AsyncEngine) -> None:
    with exit_on_error("the poll is changed, but its status can't be read"):
        click.echo("\n".join(_lines(await _fetch_status(data, state, engine))))


async def _plan(data: Path | None, state: QueueState, engine: AsyncEngine) -> Status:
    settings = load_settings(ShowResultsSettings, environment(data))
    return await fetch_settled_status(state, engine, settings.show_results)


async def _plan_until(
    data: Path | None, state: QueueState, engine: AsyncEngine, *, at: Moment | None, option: str
) -> tuple[Status, datetime | None]:
    """Return the status, and the time of an option by Redis' clock."""
    closes_at = await _resolve(state, at, option)
    return await _plan(data, state, engine), closes_at


async def _fetch_status(data: Path | None, state: QueueState, engine: AsyncEngine) -> Status:
    settings = load_settings(ShowResultsSettings, environment(data))
    return await fetch_status(state, engine, settings.show_results)


def _confirm(lines: Sequence[str]) -> None:
    """Ask the operator, if there is something to confirm. Exits unless the answer is yes."""
    text = "\n  ".join(lines)
    if not text:
        return
    if not sys.stdin.isatty():
        raise click.UsageError(f"without a terminal, confirm with --yes: {text}")
    click.echo(text)
    if not click.confirm("Continue?"):
        raise click.ClickException("nothing was changed")


def _lines(found: Status) -> Iterator[str]:
    poll, counts = found.poll, found.counts
    if found.conflict is not None:
        yield f"conflict      {found.conflict}"
    yield f"round         {poll.round}, {_state(poll)}"
    yield f"question      {poll.question.title}"
    yield f"votes         {describe(poll.question, counts)}"
    yield f"not counted   {'unknown' if found.backlog is None else found.backlog}"
    yield f"dead letters  {'unknown' if found.dead_letters is None else found.dead_letters}"
    if poll.queue_lost_at is not None:
        yield f"queue lost    {in_utc(poll.queue_lost_at)}: ballots not counted by then are missing"
    for final in found.finals:
        totals = describe(final.question, final.vote_counts)
        revoked = ", revoked" if final.revoked else ""
        yield f"final         {in_utc(final.final_at)}, round {final.round}: {totals}{revoked}"


def _state(poll: Poll) -> str:
    if poll.phase is Phase.FINAL and poll.final_at:
        return f"final since {in_utc(poll.final_at)}, closed at {in_utc(poll.closed_at)}"
    if poll.phase is Phase.COUNTING:
        return f"closed at {in_utc(poll.closed_at)}, counting" if poll.closed_at else "closing"
    return f"open, closes at {in_utc(poll.closes_at)}" if poll.closes_at else "open"
