"""`nox -s bench`: measures each part against its bottleneck."""

import argparse
from pathlib import Path

from bench.accept import accept
from bench.count import count
from bench.growth import growth
from bench.lived import lived, scale
from bench.replicas import replicas
from bench.rest import rest
from bench.results import Results, machine
from bench.show import see, show
from bench.size import size
from bench.stack import stack
from bench.watch import watch

PARTS = {
    part.__name__: part
    for part in (size, accept, lived, scale, replicas, count, show, see, watch, rest, growth)
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="nox -s bench --")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part only")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument(
        "--beside", metavar="URL", help="a running vote page of dockersamples/example-voting-app"
    )
    parser.add_argument("--json", type=Path, default=Path("bench.json"), metavar="FILE")
    options = parser.parse_args()
    results = Results()
    with stack() as running:
        for part, measure in PARTS.items():
            if part in (options.only or PARTS):
                measure(running, results, options)
    results.write(options.json)
    print(*(f"{key}: {value}" for key, value in machine().items()), "", sep="\n")
    print(results.table())


main()
