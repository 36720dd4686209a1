"""The commands that check and repair the data: audit, replay."""

import sys
from pathlib import Path

import click

from voting.commands import options
from voting.commands.context import run_on_servers, to_json
from voting.reconcile import audit as auditing
from voting.reconcile import replay as replaying


@click.command()
@options.data
@options.json
def audit(data: Path | None, *, json_output: bool) -> None:
    """Check that queue, votes and tally agree.

    The app may run meanwhile. The exit code is 1 if there is a problem.
    """
    # The sum of all votes has no time limit on this side: it grows with their number.
    failure = "the votes can't be audited"
    result = run_on_servers(data, failure, auditing.audit, patience=None)
    if json_output:
        click.echo(to_json(result))
    else:
        backlog = "unknown" if result.backlog is None else result.backlog
        age = result.oldest_pending_seconds
        oldest = "" if age is None else f", the oldest for {age:.0f} s"
        click.echo(f"votes         {result.question.describe(result.votes)}")
        click.echo(f"tally         {result.question.describe(result.tally)}")
        click.echo(f"compared      {_compared(result)}")
        click.echo(f"not counted   {backlog}, pending {result.pending}{oldest}")
        click.echo(f"dead letters  {result.dead_letters}")
        click.echo("\n".join(result.problems or ["no problems"]))
    sys.exit(1 if result.problems else 0)


@click.command()
@options.data
@options.json
def replay(data: Path | None, *, json_output: bool) -> None:
    """Recount ballots that a restored database lost.

    The queue keeps counted ballots for some time; older ones are only in backups. The exit code is
    1 if neither has some.
    """
    result = run_on_servers(data, "the ballots can't be replayed", replaying.replay)
    if json_output:
        click.echo(to_json(result))
    else:
        click.echo(f"compared      {_compared(result)}")
        click.echo(f"recounted     {result.votes}")
        if result.left:
            click.echo(f"left          {result.left} ballots of rounds that the database lacks")
        click.echo(result.gap or "complete for the time that the queue covers")
    sys.exit(1 if result.gap else 0)


def _compared(result: auditing.Audit | replaying.Replay) -> str:
    since = f", the oldest of {result.since:%Y-%m-%d %H:%M:%S} UTC" if result.since else ""
    return f"{result.entries} ballots{since}"
