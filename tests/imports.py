"""Draws the packages of `voting` and which imports which: `python tests/imports.py`."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parent.parent / "voting"

# From the top. A package may import those on the floors below it, and no other but itself.
FLOORS = (
    ("__main__",),
    ("commands", "local", "load"),
    ("roles",),
    ("reconcile", "web"),
    ("queue", "database"),
    ("telemetry",),
    ("settings",),
    ("poll",),
)

# What a package must not import, though it stands below.
FORBIDDEN = {
    "web": {"queue", "database"},
    "local": {"roles", "reconcile", "web", "queue", "database", "poll", "telemetry"},
    "load": {"roles", "reconcile", "web", "queue", "database", "telemetry"},
}


def modules() -> dict[str, Path]:
    """Find the modules by name: "queue.producer"; "queue" is the package's docstring."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
        for path in sorted(PACKAGE.rglob("*.py"))
        if path.parent != PACKAGE or path.name != "__init__.py"
    }


def imports(path: Path, names: set[str]) -> set[str]:
    """Return which of `names` that file imports, anywhere in it."""
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
    """Return for each module the modules that it imports."""
    found = modules()
    return {name: imports(path, set(found)) for name, path in found.items()}


def package(module: str) -> str:
    return module.partition(".")[0]


def package_graph() -> dict[str, set[str]]:
    """Return for each package the other packages that it imports."""
    edges: dict[str, set[str]] = {package(name): set() for name in modules()}
    for name, others in graph().items():
        edges[package(name)] |= {package(each) for each in others} - {package(name)}
    return edges


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


def draw() -> str:
    """Draw the floors from the top: each package, its lines, its modules, what it imports."""
    found, edges = modules(), package_graph()
    drawing = []
    for floor in FLOORS:
        for name in floor:
            own = {each: path for each, path in found.items() if package(each) == name}
            inside = ", ".join(each.partition(".")[2] for each in own if "." in each)
            arrow = f" → {', '.join(sorted(edges[name]))}" if edges[name] else ""
            drawing.append(f"{sum(map(lines, own.values())):5} {name}{arrow}")
            drawing += [f"        {inside}"] if inside else []
        drawing.append("      " + "─" * 60)
    drawing.append(f"{sum(map(lines, found.values())):5} lines in {len(found)} modules")
    return "\n".join(drawing)


if __name__ == "__main__":
    print(draw())  # noqa: T201 - what it is for
