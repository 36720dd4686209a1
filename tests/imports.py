"""Draws which module of the package imports which: `python tests/imports.py`."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "voting"

# From the top: a module may import what stands in a lower layer, or earlier in its own.
LAYERS = (
    ("the command, which finds the roles by name", ("roles.run", "__main__")),
    (
        "the operator's commands",
        ("schema_commands", "operating", "commands", "poll_commands", "export.command"),
    ),
    (
        "`voting load`",
        tuple(
            f"load.{name}"
            for name in (
                *("options", "latency", "record", "client", "crowd", "check"),
                *("report", "command"),
            )
        ),
    ),
    ("`voting up`", ("supervisor", "embedded", "folder", "local")),
    ("roles", ("roles.vote", "roles.result", "roles.worker")),
    (
        "HTTP",
        (
            *("voters", "forms", "rate_limit", "latest", "web", "export.downloads"),
            *("ops", "connections", "server"),
        ),
    ),
    ("logs and traces of what happens", ("spans", "tracing", "trails")),
    ("a request and its answer", ("exchange",)),
    ("beside the work of a role", ("watching",)),
    (
        "servers",
        (
            *("casting", "durability", "stream", "database", "tally", "rounds", "schema"),
            *("audit", "shown", "timeline", "qr", "export.formats", "export.snapshot"),
        ),
    ),
    (
        "ground",
        (
            "traceparent",
            "ballots",
            "polls",
            "models",
            "settings",
            "absent",
            "logs",
            "metrics",
            "texts",
            "openapi",
        ),
    ),
)


def modules() -> dict[str, Path]:
    """Find the modules by name, packages with no code of their own left out."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.name != "__init__.py"
    }


def imports(path: Path, names: set[str]) -> set[str]:
    """Tell which of `names` that file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.ImportFrom(module=str(module), names=aliases, level=0):
                base = module.removeprefix("voting").lstrip(".")
                found |= {base, *(f"{base}.{alias.name}".lstrip(".") for alias in aliases)}
            case ast.Import(names=aliases):
                found |= {alias.name.removeprefix("voting.") for alias in aliases}
    return found & names


def graph() -> dict[str, set[str]]:
    found = modules()
    return {name: imports(path, set(found)) for name, path in found.items()}


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def draw() -> str:
    """Draw the layers from the top, with each module's lines and what it imports."""
    found, edges = modules(), graph()
    drawing = []
    for title, names in LAYERS:
        drawing.append(f"── {title}")
        for name in names:
            arrow = f" → {', '.join(sorted(edges[name]))}" if edges[name] else ""
            drawing.append(f"   {lines(found[name]):4} {name}{arrow}")
    drawing.append(f"── {sum(map(lines, found.values()))} lines in {len(found)} modules")
    return "\n".join(drawing)


if __name__ == "__main__":
    print(draw())  # noqa: T201 - what it is for
