"""`voting load`: votes over HTTP as a crowd does, and checks that the result has them all."""

import argparse
import asyncio
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import uvloop

from voting import __version__
from voting.load.check import check, rest
from voting.load.client import Client, NoAnswer
from voting.load.crowd import Casting
from voting.load.record import Expected, Header, Record, RecordError, Shown, Verdict, Writer
from voting.load.report import Report, say
from voting.settings import LoadSettings, load

RATE = 100.0  # votes a second, where neither a rate nor a number of votes is given


def run(arguments: argparse.Namespace) -> int:
    """Return the exit code: 1 where nobody answers, or the result is not what voters were told."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(arguments))


async def _run(arguments: argparse.Namespace) -> int:
    # The first SIGINT or SIGTERM stops the casting, if there is any; the next ends the command.
    signals = _Signals()
    verdict: Verdict | None
    try:
        if isinstance(arguments.check, Path):
            verdict = await _check_record(arguments)
        else:
            verdict = await _load(arguments, signals)
    except (NoAnswer, RecordError) as error:
        say(f"voting: {error}", to=2)
        return 1
    except asyncio.CancelledError:
        if signals.last is None:
            raise
        return 128 + signals.last
    if verdict is None:
        return 0
    say(verdict.line)
    return 0 if verdict.agrees else 1


class _Signals:
    def __init__(self) -> None:
        self.casting: Casting | None = None
        self.last: int | None = None
        self._command = asyncio.current_task()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._handle, number)

    def _handle(self, number: int) -> None:
        if self.casting is not None:
            self.casting.stop()
            self.casting = None
        elif self._command is not None:
            self.last = number
            self._command.cancel()


async def _load(arguments: argparse.Namespace, signals: _Signals) -> Verdict | None:
    addresses = {"VOTE_URL": arguments.vote_url, "RESULT_URL": arguments.result_url}
    given = {name: url for name, url in addresses.items() if url}
    settings = load(LoadSettings, {**os.environ, **given})
    async with Client(settings.vote_url, settings.result_url, arguments.connections) as client:
        try:
            await client.open()
        except NoAnswer as error:
            if not error.temporary:
                raise
        before = await rest(client) if arguments.record or arguments.check else None
        expected = Expected() if arguments.check else None
        with _recording(arguments.record, client, before) as writer:
            await _cast(arguments, client, Report(expected, writer), signals)
        if expected is None or before is None:
            return None
        return await check(client, expected, before, arguments.patience)


@contextmanager
def _recording(path: Path | None, client: Client, before: Shown | None) -> Iterator[Writer | None]:
    if path is None or before is None:
        yield None
        return
    started = datetime.now(UTC).isoformat(timespec="seconds")
    with path.open("w", encoding="utf-8") as file:
        yield Writer(file, Header(__version__, client.vote_url, client.result_url, started, before))


async def _cast(
    arguments: argparse.Namespace, client: Client, report: Report, signals: _Signals
) -> None:
    rate = RATE if arguments.rate is None and arguments.votes is None else arguments.rate
    async with report:
        casting = Casting(
            client,
            report.hear,
            votes=arguments.votes,
            rate=rate or None,
            voters=arguments.voters,
            changes=arguments.changes,
            connections=arguments.connections,
        )
        signals.casting = casting
        try:
            await casting.run()
        finally:
            signals.casting = None


async def _check_record(arguments: argparse.Namespace) -> Verdict:
    record = Record.read(arguments.check)
    if not record.whole:
        say("voting: the end of the record is missing, maybe with votes", to=2)
    url = arguments.result_url or record.header.result_url
    settings = load(LoadSettings, {"RESULT_URL": url})
    async with Client(settings.vote_url, settings.result_url, 1) as client:
        return await check(client, record.expected, record.header.before, arguments.patience)
