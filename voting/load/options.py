"""The options of `voting load`."""

import argparse
from collections.abc import Callable
from math import inf
from pathlib import Path
from typing import TypeVar

HELP = "cast votes over HTTP, and check that the result has them"

_DESCRIPTION = """\
Vote as a crowd does: each voter opens the page and votes, some change their minds later. Without
options 100 vote each second until Ctrl-C, with the `voting up` of this machine.

With --rate a vote is due at its moment whatever becomes of the others, and its latency counts from
there. Each vote is sent once: it is acknowledged, refused, or its fate is unknown.

--check and --record compare totals, so they are exact only where nobody else votes from the start
of the load to the end of the check. A vote of unknown fate may be counted or not: both are right.
Exit code 1 where the result is not what voters were told."""

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
    add("--votes", type=_above_0(int), metavar="N", help="how many; without it, until Ctrl-C")
    add(
        "--rate",
        type=_above_0(float),
        metavar="R",
        help="votes a second; without it 100, or with --votes as fast as they are answered",
    )
    add(
        "--voters",
        type=_above_0(int),
        metavar="M",
        help="at most so many different voters, each of them no more often than VOTES_PER_MINUTE",
    )
    add(
        "--changes",
        type=_share,
        default=0.1,
        metavar="SHARE",
        help="of votes by somebody who has voted, and picks the other option (default: 0.1)",
    )
    add(
        "--connections",
        type=_above_0(int),
        default=64,
        metavar="C",
        help="at most so many at once (default: 64)",
    )


def _add_check(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--record", type=Path, metavar="FILE", help="write down what each voter was told")
    add(
        "--check",
        type=Path,
        nargs="?",
        const=True,
        metavar="FILE",
        help="wait until the result agrees; with a record, cast nothing and compare that",
    )
    add(
        "--patience",
        type=_above_0(float),
        default=60.0,
        metavar="SECONDS",
        help="how long a result that differs may stand still (default: 60)",
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
