"""The Markdown pages, and the commands in them."""

import ast
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent.parent

# The pages whose commands are run by a test, or say why not.
PAGES = sorted(
    path.relative_to(ROOT)
    for pattern in ("README.md", "CONTRIBUTING.md", "docs/**/*.md", "deploy/**/README.md")
    for path in ROOT.glob(pattern)
)


@dataclass(frozen=True)
class Block:
    """A block of commands; `marker` is the comment before it."""

    page: Path
    line: int
    marker: str | None
    commands: tuple[str, ...]
    output: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


_BLOCK = re.compile(
    r"(?:^ *<!-- (?P<marker>[^>]*) -->\n)?^(?P<indent> *)```console\n(?P<text>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


def blocks(page: Path) -> list[Block]:
    """Return the page's blocks of the language `console`."""
    text = (ROOT / page).read_text()
    found = []
    for match in _BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("text"))
        lines = [each.removeprefix(match["indent"]) for each in match["text"].splitlines()]
        commands, output = _split(lines)
        found.append(Block(page, line, match["marker"], tuple(commands), tuple(output)))
    return found


def _split(lines: list[str]) -> tuple[list[str], list[str]]:
    """Separate the commands, some of which go on for several lines, from what they print."""
    commands: list[str] = []
    output: list[str] = []
    for line in lines:
        if commands and not output and not _is_complete(commands[-1]):
            commands[-1] += f"\n{line}"
        elif line.startswith("$ "):
            commands.append(line[2:])
        else:
            output.append(line)
    return commands, output


def _is_complete(command: str) -> bool:
    if here := re.search(r"<<-?'?(\w+)", command):
        return command.endswith(f"\n{here[1]}")
    try:
        shlex.split(command, comments=True)
    except ValueError:  # a quotation is open
        return False
    return not command.endswith("\\")


def programs(command: str) -> Iterator[list[str]]:
    """Return the words of each program that a shell command runs, without redirections."""
    text = re.sub(r"^\w+=\$\((.*)\)$", r"\1", command).partition("<<")[0]
    lexer = shlex.shlex(text, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    skip = False
    for word in lexer:
        if skip:
            skip = False
        elif set(word) <= set("<>"):
            skip = True
        elif set(word) <= set("|&;"):
            yield words
            words = []
        else:
            words.append(word)
    yield words


def functions(path: str) -> set[str]:
    """Return the functions that a file of Python defines."""
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        each.name for each in ast.parse((ROOT / path).read_text()).body if isinstance(each, kinds)
    }


def sessions() -> dict[str, bool]:
    """Return each session of nox, and whether `nox` without arguments runs it."""
    found = {}
    for node in ast.parse((ROOT / "noxfile.py").read_text()).body:
        for each in node.decorator_list if isinstance(node, ast.FunctionDef) else []:
            if ast.unparse(each).startswith("nox.session"):
                found[node.name] = "default=False" not in ast.unparse(each)
    return found
