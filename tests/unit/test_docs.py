"""The pages: their links lead somewhere, and their commands are run or could be."""

import re
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import click
import pytest
import yaml
from support.docs import PAGES, ROOT, Block, blocks, functions, programs, sessions

from voting.commands.cli import LazyCommand, cli

EVERY_PAGE = sorted({*PAGES, *(p.relative_to(ROOT) for p in ROOT.glob("*.md"))})
BLOCKS = [pytest.param(block, id=str(block)) for page in PAGES for block in blocks(page)]

# Of the short names that kubectl takes.
KINDS = {"deploy": "deployment", "sts": "statefulset", "svc": "service"}
CHECKED = {"deployment", "statefulset", "cluster", "scaledobject"}
RESOURCES = {
    (resource["kind"].lower(), resource["metadata"]["name"])
    for path in (ROOT / "deploy").rglob("*.yaml")
    for resource in yaml.safe_load_all(path.read_text())
    if resource and "metadata" in resource
}


def text_of(page: Path) -> str:
    """Return what a page says outside its code."""
    fence = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)
    return re.sub(r"`[^`\n]+`", "`", fence.sub("", (ROOT / page).read_text()))


def links(page: Path) -> list[str]:
    """Return the targets of a page's links and pictures that are in this repository."""
    found = re.findall(r"\]\(([^)\s]+)\)|(?:src|href)=\"([^\"]+)\"", text_of(page))
    targets = [one or other for one, other in found]
    return [each for each in targets if not re.match(r"[a-z]+:", each)]


def anchors(path: Path) -> set[str]:
    """Return the anchors that GitHub gives to a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        later = (f"{slug}-{number}" for number in range(1, 100))
        found.add(slug if slug not in found else next(each for each in later if each not in found))
    return found


@pytest.mark.parametrize("page", EVERY_PAGE, ids=str)
def test_each_link_leads_somewhere(page):
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (ROOT / page.parent / path).resolve() if path else ROOT / page
        assert target.exists(), link
        if anchor and target.suffix == ".md":
            assert anchor in anchors(target), link


def test_each_page_of_the_docs_is_reached_from_the_readme():
    reached: set[Path] = set()
    ahead = [Path("README.md")]
    while ahead:
        page = ahead.pop()
        if page not in reached:
            reached.add(page)
            there = (ROOT / page.parent / link.partition("#")[0] for link in links(page))
            ahead += [
                each.resolve().relative_to(ROOT)
                for each in there
                if each.suffix == ".md" and each.is_file()
            ]
    pages = [page for page in EVERY_PAGE if page.parts[0] == "docs"]
    assert [str(page) for page in pages if page not in reached] == []


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) < 150


@pytest.mark.parametrize("block", BLOCKS)
def test_each_block_is_run_or_says_why_not(block: Block):
    kind, _, rest = (block.marker or "").partition(":")
    assert kind in {"run", "run by", "not run"}
    assert bool(rest.strip()) == (kind != "run")
    if kind == "run by":
        path, _, name = rest.strip().partition("::")
        assert name in functions(path)
    for path in re.findall(r"\b(?:tests|e2e|deploy|\.github)/[\w./-]*\w", rest):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("block", BLOCKS)
def test_what_a_block_names_exists(block: Block, tmp_path, monkeypatch):
    assert block.commands
    monkeypatch.chdir(tmp_path)
    for command in block.commands:
        for words in programs(command):
            check(words, block.page)


@pytest.mark.parametrize("page", EVERY_PAGE, ids=str)
def test_commands_within_a_sentence_exist(page):
    for words in re.findall(r"`voting ([a-z][^`|\[]*)`", (ROOT / page).read_text()):
        command, _, arguments = find_command(words.split())
        options = {option for param in command.params for option in param.opts} | {"--help"}
        assert {each for each in arguments if each.startswith("--")} <= options, words
    for words in re.findall(r"`nox (-s [^`]+)`", (ROOT / page).read_text()):
        check_nox(words.split())


def check(words: list[str], page: Path) -> None:
    """Check the words of a program: commands, options, sessions, paths and resources."""
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    name = Path(words[0]).name if words else ""
    if name == "voting":
        check_voting(words[1:])
    elif name == "nox":
        check_nox(words[1:])
    elif name in {"kubectl", "kind"}:
        check_kubectl(words[1:], page)
    elif name == "python" and words[1].endswith(".py"):
        assert is_there(words[1], page)


def check_voting(words: list[str]) -> None:
    command, name, words = find_command(words)
    for word in words:
        if re.fullmatch(r"[\w-]+\.(yaml|csv)", word):
            Path(word).touch()
    with suppress(click.exceptions.Exit), command.make_context(name, words):  # Exit: of --help
        pass


def find_command(words: list[str]) -> tuple[click.Command, str, list[str]]:
    """Return the command that the words after `voting` name, its name, and its arguments."""
    command: click.Command = cli
    name = "voting"
    while isinstance(command, click.Group) and words and not words[0].startswith("-"):
        name, *words = words
        command = command.commands[name]
        if isinstance(command, LazyCommand):
            command = command.load()
    return command, name, words


def check_nox(words: list[str]) -> None:
    options = words[words.index("--") :] if "--" in words else []
    named = words[words.index("-s") + 1 : len(words) - len(options)] if "-s" in words else []
    assert set(named) <= sessions().keys()
    taken = "\n".join(
        path.read_text()
        for path in (ROOT / "e2e/conftest.py", ROOT / "tests/conftest.py", *ROOT.glob("bench/*.py"))
    )
    for option in options:
        if re.match(r"--\w", option):
            assert f'"{option.partition("=")[0]}"' in taken


def check_kubectl(words: list[str], page: Path) -> None:
    if "--" in words:
        inside = words[words.index("--") + 1 :]
        check(inside, page)
        words = words[: words.index("--")]
    for option, value in pairwise(words):
        if option in {"-k", "-f", "--kustomize", "--filename", "--config"} and value != "-":
            assert is_there(value, page), value
    pairs = [word.split("/") for word in words if word.count("/") == 1]
    pairs += [list(pair) for pair in pairwise(words)]
    for kind, resource in pairs:
        found = KINDS.get(kind, kind)
        if found in CHECKED and resource not in CHECKED and re.fullmatch(r"[a-z][a-z-]*", resource):
            assert (found, resource) in RESOURCES, f"{kind} {resource}"


def is_there(path: str, page: Path) -> bool:
    """Whether a path exists, from the root or from the folder of the page.

    Of web addresses and of `mine`, the folder for what the reader writes, it is not known.
    """
    if re.match(r"https://|mine/", path):
        return True
    return (ROOT / path).exists() or (ROOT / page.parent / path).exists()
