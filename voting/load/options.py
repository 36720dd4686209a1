"""The options of `voting load`."""

import argparse
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TypeVar

HELP = "cast votes over HTTP, and check that the result has them"

_DESCRIPTION = """\
Cast votes over HTTP. Each voter opens the page and votes; some vote again later, for the other
option. Without options it sends 100 votes a second until Ctrl-C to the `voting up` of this machine.

With --rate each vote is due at its own time, and its latency starts then, even if it has to wait
for a connection. Each vote is sent once: it is acknowledged, refused, or its fate is unknown.

--check and --record compare totals. They are exact only if nothing else votes from the start of the
load to the end of the check. A vote of unknown fate may be counted or not: both are consistent.
The exit code is 1 if the result differs from what voters were told."""

_Number = TypeVar("_Number", int, float)


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = _DESCRIPTION
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    _add_votes(parser)
    for page, port in (("vote", 8080), ("result", 8081)):
        parser.add_argument(
            f"--{page}-url",
            metavar="URL",
            help=f"default: {page.upper()}_URL, else http://localhost:{port}",
        )
    _add_check(parser)


def _add_votes(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--votes", type=_above_0(int), metavar="N", help="number of votes (default: until Ctrl-C)")
    add(
        "--rate",
        type=_above_0(float),
        metavar="R",
        help="votes a second (default: 100; with --votes: as fast as responses come)",
    )
    add(
        "--voters",
        type=_above_0(int),
        metavar="M",
        help="maximum number of different voters; VOTES_PER_MINUTE limits each of them",
    )
    add(
        "--revote-ratio",
        type=_share,
        default=0.1,
        metavar="RATIO",
        help="share of votes by voters who have voted before, for the other option (default: 0.1)",
    )
    add(
        "--connections",
        type=_above_0(int),
        default=64,
        metavar="C",
        help="maximum concurrent connections (default: 64)",
    )


def _add_check(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--record",
        type=Path,
        metavar="FILE",
        help="write what each voter was told",
    )
    add(
        "--check",
        type=Path,
        nargs="?",
        const=True,
        metavar="FILE",
        help="wait until the result agrees; with a record, cast nothing and check that",
    )
    add(
        "--timeout",
        type=_above_0(float),
        default=60.0,
        metavar="SECONDS",
        help="fail after the result has differed without changing for this long (default: 60)",
    )


def _above_0(number: type[_Number]) -> Callable[[str], _Number]:
    def read(text: str) -> _Number:
        value = number(text)
        if not 0 < value < inf:
            raise argparse.ArgumentTypeError("must be above 0")
        return value

    read.__name__ = "number"  # what argparse calls it
    return read


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError("must be from 0 to 1")
    return value
