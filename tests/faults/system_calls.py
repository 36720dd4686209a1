"""The order of Valkey's system calls, which alone proves that a vote is on disk."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from voting.poll.ballot import Version

TRACE = ("strace", "-D", "-f", "-y", "-s", "1000000", "-e", "trace=write,writev,fdatasync,fsync")


@dataclass
class Call:
    """One system call: the lines of the trace at which it begins and ends, and its arguments."""

    name: str
    arguments: str
    begins: int
    ends: int | None = None

    @property
    def appends(self) -> bool:
        return "write" in self.name and ".aof>" in self.arguments.partition(",")[0]

    @property
    def replies(self) -> bool:
        return "write" in self.name and "socket:" in self.arguments.partition(",")[0]

    @property
    def syncs(self) -> bool:
        return "sync" in self.name and ".aof>" in self.arguments


def calls(trace: Path) -> Iterator[Call]:
    """Parse the output of strace; a call may end after later calls of other threads."""
    begun: dict[str, Call] = {}
    for number, line in enumerate(trace.read_text(errors="replace").splitlines()):
        thread, _, text = line.partition(" ")
        if resumed := re.match(r"\s*<\.\.\. \w+ resumed>", text):
            call = begun.pop(thread, None)
            if call is not None and _succeeded(text[resumed.end() :]):
                call.ends = number
        elif match := re.match(r"\s*(\w+)\((.*)", text):
            call = Call(match[1], match[2], number)
            if text.endswith("<unfinished ...>"):
                begun[thread] = call
            elif _succeeded(text):
                call.ends = number
            yield call


def _succeeded(text: str) -> bool:
    return bool(re.search(r"\) += \d+(<.*>)?$", text))


def early_replies(trace: list[Call], versions: list[Version]) -> list[Version]:
    """Return the ballots whose id left the server before their entry was written and synced.

    The id is in the log that Valkey writes, and in each reply that has the entry.
    """
    appends = [call for call in trace if call.appends]
    replies = [call for call in trace if call.replies]
    syncs = [call for call in trace if call.syncs and call.ends is not None]
    early = []
    for version in versions:
        append = next(call for call in appends if str(version) in call.arguments)
        reply = next(call for call in replies if str(version) in call.arguments)
        if append.ends is None or not any(
            append.ends < sync.begins and sync.ends < reply.begins for sync in syncs
        ):
            early.append(version)
    return early
