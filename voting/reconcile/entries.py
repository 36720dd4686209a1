"""Reading the whole stream: its entries in pages, and which of them have to be counted."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from voting.poll.ballot import MAX_BIGINT, QueuedBallot, Version
from voting.queue.entry import Entry
from voting.queue.state import GroupProgress, QueueState

PAGE = 10_000  # entries


async def pages(state: QueueState) -> AsyncIterator[list[Entry]]:
    """Yield all entries, the newest first.

    So the pages have all entries since the oldest one yielded, even if workers trim meanwhile.
    """
    before = None
    while page := await state.entries_before(before, PAGE):
        yield page
        before = page[-1].version


def counted_versions(
    progress: GroupProgress | None,
    dead_letters: Sequence[Entry],
    after_version: Version,
    last_version: Version | None = None,
) -> Callable[[Version], bool]:
    """Return a predicate: whether the ballot of a version must be counted by now.

    Then its voter has this vote or a newer one. Ballots up to `after_version` belong to an earlier
    round, those above `last_version` to none.
    """
    dead_lettered = set()
    for letter in dead_letters:
        with suppress(ValueError, KeyError):  # not written by a worker
            dead_lettered.add(Version.parse(letter.fields[b"id"]))

    def counted(version: Version) -> bool:
        in_round = after_version < version and (last_version is None or version <= last_version)
        counted = in_round and progress is not None and progress.counted(version)
        return counted and version not in dead_lettered

    return counted


def decode(entries: Sequence[Entry]) -> list[QueuedBallot]:
    """Return the ballots that a worker can count, without those that become dead letters."""
    ballots = []
    for entry in entries:
        with suppress(ValueError):
            if max(entry.version) <= MAX_BIGINT:
                ballots.append(entry.ballot())
    return ballots


def cast_at(version: Version | None) -> datetime | None:
    """Return when a ballot was cast, by Redis' clock."""
    return None if version is None else datetime.fromtimestamp(version.ms / 1000, UTC)
