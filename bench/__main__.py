"""`nox -s bench`: measures how fast each part is, beside what limits it."""

import argparse
from pathlib import Path

from bench.accept import accept
from bench.count import count
from bench.growth import growth
from bench.results import Results, machine
from bench.show import see, show
from bench.size import size
from bench.stack import stack

REPEATS = 3
SEE_SECONDS = 12.0
PARTS = ("size", "accept", "count", "show", "see", "growth")


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s bench --")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part only")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument(
        "--beside", metavar="URL", help="a running vote page of dockersamples/example-voting-app"
    )
    parser.add_argument("--json", type=Path, default=Path("bench.json"), metavar="FILE")
    arguments = parser.parse_args()
    parts = arguments.only or PARTS
    results = Results()
    with stack() as running:
        measure = {
            "size": lambda: size(running, results, arguments.repeats),
            "accept": lambda: accept(running, results, arguments.repeats, arguments.beside),
            "count": lambda: count(running, results, arguments.repeats),
            "show": lambda: show(running, results, arguments.repeats),
            "see": lambda: see(running, results, SEE_SECONDS),
            "growth": lambda: growth(running, results),
        }
        for part in PARTS:
            if part in parts:
                measure[part]()
    results.write(arguments.json)
    print(*(f"{key}: {value}" for key, value in machine().items()), "", sep="\n")
    print(results.table())


main()
