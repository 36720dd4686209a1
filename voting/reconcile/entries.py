"""Reading the whole stream: its entries in pages, and which of them have to be counted."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime

from voting.poll.ballot import MAX_BIGINT, MIN_VERSION, QueuedBallot, Version
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


@dataclass(frozen=True, slots=True)
class Gap:
    """Ballots cast between these times were counted, and neither server has them."""

    since: datetime | None
    """When the newest vote of the database was cast; None if it has no vote."""
    until: datetime

    def __str__(self) -> str:
        since = "" if self.since is None else f" after {self.since:%Y-%m-%d %H:%M:%S}"
        return (
            f"votes cast{since} before {self.until:%Y-%m-%d %H:%M:%S} UTC may be missing:"
            " the database does not have them, and the queue begins later"
        )


async def oldest_left(state: QueueState, progress: GroupProgress) -> Version | None:
    """Return the oldest entry of a queue from which older ones were deleted.

    If none is left, the last that was; None if nothing was deleted, or that is pending.
    """
    if not await state.was_trimmed():
        return None
    oldest = await state.next_entry_after(MIN_VERSION)
    return oldest or (None if progress.pending else progress.last_delivered)


def find_gap(
    oldest: Version | None, floor: Version, counted: Callable[[Version], bool]
) -> Gap | None:
    """Look for counted ballots that the queue has deleted and that a restored database lacks.

    `oldest` was read before `floor`, which is newer than each vote of the database: so the database
    has `oldest`, if that is counted, or lacks it and maybe older ones.
    """
    if oldest is None or oldest < floor or not counted(oldest):
        return None
    return Gap(cast_at(floor) if floor > MIN_VERSION else None, cast_at(oldest))


def cast_at(version: Version) -> datetime:
    """Return when a ballot was cast, by Redis' clock."""
    return datetime.fromtimestamp(version.ms / 1000, UTC)
