"""The commands that look after the data: audit, replay."""

import argparse
import asyncio

from voting.commands.context import as_json, one_line_for, say, with_servers
from voting.reconcile.audit import Audit
from voting.reconcile.audit import audit as compare
from voting.reconcile.replay import Replay
from voting.reconcile.replay import replay as count_again


def audit(arguments: argparse.Namespace) -> int:
    """Return 1 where something is wrong, or a server can't be asked."""
    # No patience of its own: adding up all votes takes as long as it takes.
    with one_line_for("the votes can't be audited"):
        found = asyncio.run(with_servers(arguments, compare, patience=None))
    if arguments.json:
        say(as_json(found))
    else:
        backlog = "unknown" if found.backlog is None else found.backlog
        age = found.oldest_pending_seconds
        oldest = "" if age is None else f", the oldest for {age:.0f} s"
        say(
            f"votes         a {found.votes.a}, b {found.votes.b}",
            f"tally         a {found.tally.a}, b {found.tally.b}",
            f"compared      {_entries(found)}",
            f"not counted   {backlog}, with a worker {found.pending}{oldest}",
            f"dead letters  {found.dead_letters}",
            *(found.problems or ["fine"]),
        )
    return 1 if found.problems else 0


def replay(arguments: argparse.Namespace) -> int:
    """Return 1 where a server can't be asked."""
    with one_line_for("the ballots can't be counted again"):
        found = asyncio.run(with_servers(arguments, count_again))
    if arguments.json:
        say(as_json(found))
    else:
        say(
            f"compared      {_entries(found)}",
            f"counted again {found.votes}",
            # What was counted before that can be in a backup only.
            "fine, as far as the queue goes back",
        )
    return 0


def _entries(found: Audit | Replay) -> str:
    since = f", the oldest of {found.since:%Y-%m-%d %H:%M:%S} UTC" if found.since else ""
    return f"{found.entries} ballots{since}"
