"""Mistakes that the simulation must find. Each control is a context that contains one mistake."""

from contextlib import contextmanager
from unittest import mock

from simulation.postgres_model import Postgres
from sqlalchemy import text

from voting.database import poll
from voting.queue import producer, state
from voting.queue.client import GROUP, Queue
from voting.queue.consumer import Consumer
from voting.queue.entry import Entry
from voting.queue.producer import Caster
from voting.queue.sentinel import PrimaryPool
from voting.queue.state import GroupProgress
from voting.roles.worker import Worker


def _patch_text(module, name, old, new):
    source = getattr(module, name)
    assert source.count(old) == 1, f"{name} has changed: {old!r} is not in it once"
    return mock.patch.object(module, name, source.replace(old, new))


@contextmanager
def acknowledge_before_commit():
    count = Worker._count

    async def acknowledge_first(self, ballots):
        ids = [Entry.of(each).id for each in ballots]
        await self._retry(lambda: self._consumer.acknowledge(ids))
        return await count(self, ballots)

    with mock.patch.object(Worker, "_count", acknowledge_first):
        yield


def group_created_at_the_end():
    return _patch_text(state, "SYNC_POLL", "or '0'", "or '$'")


@contextmanager
def dead_letters_by_delivery_count():
    claim_idle = Consumer.claim_idle

    async def dead_letter_if_delivered_often(self, *, min_idle, count):
        claimed = await claim_idle(self, min_idle=min_idle, count=count)
        pending = await self._queue.redis.xpending_range(
            self._queue.stream_key, GROUP, "-", "+", 1000
        )
        deliveries = {each["message_id"].decode(): each["times_delivered"] for each in pending}
        left = []
        for entry in claimed:
            if deliveries.get(str(entry.version), 0) >= 3:
                await self.dead_letter(entry, "delivered too often")
            else:
                left.append(entry)
        return left

    with mock.patch.object(Consumer, "claim_idle", dead_letter_if_delivered_often):
        yield


def no_deadline():
    return _patch_text(producer, "CAST", "if now >= tonumber(ARGV[1]) then", "if false then")


def ids_not_raised():
    return _patch_text(state, "SYNC_POLL", "redis.call('XSETID'", "tostring('XSETID'")


def final_before_all_counted():
    return mock.patch.object(GroupProgress, "all_counted", return_value=True)


def rounds_mixed():
    return mock.patch.object(Postgres, "counts", return_value=True)


def round_not_compared():
    return _patch_text(
        producer, "CAST", "if ARGV[2] ~= '' and ARGV[2] ~= round then", "if false then"
    )


def option_of_another_round_counted():
    return mock.patch.object(Postgres, "has_option", return_value=True)


def statement_unknown_to_the_model():
    return mock.patch.object(poll, "VERSION_FLOOR", text("SELECT 1"))


def scheduled_close_ignored():
    return _patch_text(producer, "CAST", "or (closes_at and now >= closes_at)", "")


@contextmanager
def no_wait_for_replicas():
    create = Caster.__init__

    def create_impatient(self, queue, **options):
        create(self, Queue(queue.redis, name=queue.name), **options)

    with mock.patch.object(Caster, "__init__", create_impatient):
        yield


@contextmanager
def _not_replicated(*names):
    """Take the replies of these commands or scripts from the primary alone."""
    execute, names = Queue.execute, {*names}

    async def execute_alone(self, *commands, replicated=False, **options):
        alone = not names.isdisjoint(commands[-1][:2])
        return await execute(self, *commands, replicated=replicated and not alone, **options)

    with mock.patch.object(Queue, "execute", execute_alone):
        yield


def unreplicated_entries_counted():
    return _not_replicated("XREADGROUP", "XAUTOCLAIM")


def unreplicated_close():
    return _not_replicated(state.SYNC_POLL)


def primary_not_confirmed():
    return mock.patch.object(PrimaryPool, "confirm")


# What the simulation says of each mistake that only a queue on three machines can reveal.
REPLICATED = {
    no_wait_for_replicas: "is not in the queue",
    unreplicated_entries_counted: "is counted, and not queued|dead letters",
    unreplicated_close: "was taken after the close|queue was called lost",
    primary_not_confirmed: "is not in the queue",
}
CONTROLS = {
    control.__name__: control
    for control in (
        acknowledge_before_commit,
        group_created_at_the_end,
        dead_letters_by_delivery_count,
        no_deadline,
        ids_not_raised,
        final_before_all_counted,
        rounds_mixed,
        round_not_compared,
        option_of_another_round_counted,
        scheduled_close_ignored,
        statement_unknown_to_the_model,
        *REPLICATED,
    )
}
