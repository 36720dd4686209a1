"""A model of the Redis commands that the app uses, in memory. It runs the app's real Lua scripts.

If the model and a real server differ, the model is wrong: `test_models.py` compares them.
"""

from dataclasses import dataclass, field
from functools import cache

from lupa.lua51 import LuaRuntime, lua_type

from voting.poll.ballot import MIN_VERSION, Version

BLOCKED = object()
"""The reply of a blocked read: `Redis.execute` calls its callback later."""


class ErrorReply(Exception):
    """An error reply."""


class Status(bytes):
    """A reply such as OK."""

    __slots__ = ()


OK = Status(b"OK")
NO_STREAM = "ERR The XGROUP subcommand requires the key to exist"

# Commands that Redis rejects when memory is full, except in scripts with the flag allow-oom.
DENY_OOM = {"xadd", "hset", "xsetid", "xgroup_create"}


@dataclass
class PendingEntry:
    """A delivered entry that its consumer has not acknowledged."""

    consumer: bytes
    delivered_at: int
    deliveries: int = 1


@dataclass
class Group:
    last_delivered: Version
    entries_read: int | None = None
    """The number of entries up to `last_delivered`, if Redis can compute it."""
    pending: dict[Version, PendingEntry] = field(default_factory=dict)
    consumers: dict[bytes, int] = field(default_factory=dict)
    """When each consumer last called, in ms."""


@dataclass
class Stream:
    entries: dict[Version, list[bytes]] = field(default_factory=dict)
    last_id: Version = MIN_VERSION
    entries_added: int = 0
    max_deleted: Version = MIN_VERSION
    """The highest id that XDEL has deleted."""
    groups: dict[bytes, Group] = field(default_factory=dict)

    def range(self, least, most):
        return [(each, self.entries[each]) for each in self.entries if least <= each <= most]

    def after(self, version, count):
        found = []
        for each in reversed(self.entries):
            if each <= version:
                break
            found.append((each, self.entries[each]))
        return found[::-1][:count]

    def has_gaps_after(self, version):
        return bool(self.entries) and next(iter(self.entries)) <= self.max_deleted >= version

    def entry_number(self, version):
        """Return the number of entries ever added up to `version`, or None if it is unknown.

        Source: streamEstimateDistanceFromFirstEverEntry in Redis' t_stream.c.
        """
        if not self.entries_added:
            return 0
        if not self.entries and version <= self.last_id:
            return self.entries_added
        if version < self.max_deleted or version > self.last_id:
            return None
        if version == self.last_id:
            return self.entries_added
        first = next(iter(self.entries))
        if self.max_deleted < first and version <= first:
            return self.entries_added - len(self.entries) + (version == first)
        return None

    def lag(self, group):
        if not self.entries_added:
            return 0
        if group.entries_read is not None and not self.has_gaps_after(group.last_delivered):
            return self.entries_added - group.entries_read
        number = self.entry_number(group.last_delivered)
        return None if number is None else self.entries_added - number

    def deliver(self, group, consumer, now, count):
        """Deliver up to `count` entries that no consumer has read."""
        found = self.after(group.last_delivered, count)
        for version, _ in found:
            if group.entries_read is not None and not self.has_gaps_after(group.last_delivered):
                group.entries_read += 1
            else:
                group.entries_read = self.entry_number(version)
            group.last_delivered = version
            group.pending[version] = PendingEntry(consumer, now)
        return found


class Redis:
    """A server. `clock` returns its time in seconds; tests use `memory_full` and `appended`."""

    def __init__(self, clock):
        self.keys = {}
        self.memory_full = False
        self.appended = []
        """Every entry ever added to a stream, as (key, id, fields)."""
        self.offset = 0
        """How many changes its replicas have to follow, if it has any."""
        self._clock = clock
        self._waiting = {}

    def execute(self, args, callback):
        """Run one command. Return its reply, or BLOCKED and call `callback` later."""
        reply = self._reply(args)
        if reply is BLOCKED:
            self._waiting[callback] = args
        self._unblock_reads()
        return reply

    def acknowledged(self, offset):  # noqa: ARG002 - for servers with replicas
        """Return how many replicas have all changes up to `offset` on disk."""
        return 0

    def transaction(self, commands):
        return [self._reply(args) for args in commands]

    def time_out(self, callback):
        """Reply to a blocked read whose BLOCK time is over."""
        if self._waiting.pop(callback, None):
            callback(None)

    def cancel_wait(self, callback):
        self._waiting.pop(callback, None)

    def _reply(self, args):
        try:
            return self._call(*args)
        except ErrorReply as error:
            return error

    def _unblock_reads(self):
        for callback, args in list(self._waiting.items()):
            if (reply := self._reply(args)) is not BLOCKED:
                del self._waiting[callback]
                callback(reply)

    def _call(self, name, *args, check_memory=True):
        name = name.decode().lower()
        if name in {"xgroup", "xinfo"}:
            name, args = f"{name}_{args[0].decode().lower()}", args[1:]
        if self.memory_full and check_memory and name in DENY_OOM:
            raise ErrorReply("OOM command not allowed when used memory > 'maxmemory'.")
        return getattr(self, f"do_{name}")(*args)

    def now(self):
        return int(self._clock() * 1000)

    def _stream(self, key):
        stream = self.keys.get(key)
        if not (stream is None or isinstance(stream, Stream)):
            raise ErrorReply("WRONGTYPE Operation against a key holding the wrong kind of value")
        return stream

    def _existing(self, key, error="ERR no such key"):
        if (stream := self._stream(key)) is None:
            raise ErrorReply(error)
        return stream

    def _group(self, key, name):
        stream = self._stream(key)
        if stream is None or name not in stream.groups:
            raise ErrorReply(f"NOGROUP No such key '{key!r}' or consumer group '{name!r}'")
        return stream, stream.groups[name]

    # Keys

    def do_exists(self, *keys):
        return sum(key in self.keys for key in keys)

    def do_del(self, *keys):
        return sum(self.keys.pop(key, None) is not None for key in keys)

    def do_flushall(self):
        self.keys.clear()
        return OK

    def do_hget(self, key, name):
        return self.keys.get(key, {}).get(name)

    def do_hmget(self, key, *names):
        return [self.do_hget(key, name) for name in names]

    def do_hset(self, key, *fields):
        stored = self.keys.setdefault(key, {})
        before = len(stored)
        stored.update(zip(fields[::2], fields[1::2], strict=True))
        return len(stored) - before

    # Server

    def do_hello(self):
        return [b"version", b"9.1", b"mode", b"standalone", b"role", b"master"]

    def do_time(self):
        seconds, micros = divmod(int(self._clock() * 1e6), 1_000_000)
        return [b"%d" % seconds, b"%d" % micros]

    def do_info(self, *_):
        memory = b"used_memory:%d\r\nmaxmemory:1000000\r\nmaxmemory_policy:noeviction\r\n"
        return memory % (2_000_000 if self.memory_full else 1) + b"aof_enabled:1\r\n"

    def do_waitaof(self, *_):
        return [1, 0]

    def do_client(self, *_):
        return OK

    # Streams

    def do_xadd(self, key, *args):
        make = args[0] != b"NOMKSTREAM"
        identity, *fields = args if make else args[1:]
        stream = self._stream(key)
        if stream is None:
            if not make:
                return None
            stream = self.keys[key] = Stream()
        if identity == b"*":
            ms, seq = stream.last_id
            version = Version(self.now(), 0) if self.now() > ms else Version(ms, seq + 1)
        else:
            version = Version.parse(identity)
        if version <= stream.last_id:
            raise ErrorReply("ERR The ID specified in XADD is equal or smaller than the target")
        stream.entries[version] = fields
        stream.last_id = version
        stream.entries_added += 1
        self.appended.append((key, version, fields))
        return b"%d-%d" % version

    def do_xlen(self, key):
        stream = self._stream(key)
        return 0 if stream is None else len(stream.entries)

    def do_xrange(self, key, least, most, *count):
        stream = self._stream(key) or Stream()
        found = stream.range(_bound(least, 0, 1), _bound(most, 2**64 - 1, -1))
        return _entries(found[: int(count[1]) if count else None])

    def do_xrevrange(self, key, most, least, *count):
        found = self.do_xrange(key, least, most)[::-1]
        return found[: int(count[1]) if count else None]

    def do_xdel(self, key, *ids):
        stream, deleted = self._stream(key), 0
        for each in map(Version.parse, ids):
            if stream and stream.entries.pop(each, None) is not None:
                stream.max_deleted = max(stream.max_deleted, each)
                deleted += 1
        return deleted

    def do_xtrim(self, key, _, *threshold):
        stream = self._stream(key) or Stream()
        old = [each for each in stream.entries if each < Version.parse(threshold[-1])]
        for each in old:
            del stream.entries[each]
        return len(old)

    def do_xsetid(self, key, identity):
        stream, version = self._existing(key), Version.parse(identity)
        if stream.entries and version < next(reversed(stream.entries)):
            raise ErrorReply("ERR The ID specified in XSETID is smaller than the target stream")
        stream.last_id = version
        return OK

    def do_xinfo_stream(self, key):
        stream = self._existing(key)
        entries = _entries(stream.entries.items())
        first, last = (entries[0], entries[-1]) if entries else (None, None)
        last_id = b"%d-%d" % stream.last_id
        return [b"last-generated-id", last_id, b"first-entry", first, b"last-entry", last]

    # Groups

    def do_xgroup_create(self, key, name, identity, *make):
        if make:
            self._stream(key)
            self.keys.setdefault(key, Stream())
        stream = self._existing(key, NO_STREAM)
        if name in stream.groups:
            raise ErrorReply("BUSYGROUP Consumer Group name already exists")
        stream.groups[name] = Group(stream.last_id if identity == b"$" else _id(identity))
        return OK

    def do_xgroup_destroy(self, key, name):
        return int(self._existing(key, NO_STREAM).groups.pop(name, None) is not None)

    def do_xgroup_setid(self, key, name, identity):
        self._existing(key, NO_STREAM)
        stream, group = self._group(key, name)
        group.last_delivered = stream.last_id if identity == b"$" else _id(identity)
        group.entries_read = None
        return OK

    def do_xgroup_delconsumer(self, key, name, consumer):
        _, group = self._group(key, name)
        lost = [each for each, entry in group.pending.items() if entry.consumer == consumer]
        for each in lost:
            del group.pending[each]
        group.consumers.pop(consumer, None)
        return len(lost)

    def do_xinfo_groups(self, key):
        stream = self._existing(key)
        return [
            _flat(
                {
                    b"name": name,
                    b"consumers": len(group.consumers),
                    b"pending": len(group.pending),
                    b"last-delivered-id": b"%d-%d" % group.last_delivered,
                    b"entries-read": group.entries_read,
                    b"lag": stream.lag(group),
                }
            )
            for name, group in sorted(stream.groups.items())
        ]

    def do_xinfo_consumers(self, key, name):
        self._existing(key)
        _, group = self._group(key, name)
        holders = [entry.consumer for entry in group.pending.values()]
        now = self.now()
        return [
            _flat(
                {
                    b"name": consumer,
                    b"pending": holders.count(consumer),
                    b"idle": max(0, now - seen_at),
                }
            )
            for consumer, seen_at in sorted(group.consumers.items())
        ]

    def do_xreadgroup(self, _, name, consumer, *args):
        options = {args[i]: int(args[i + 1]) for i in range(0, len(args) - 3, 2)}
        key, version = args[-2:]
        assert version == b">", "the app reads only new entries"
        stream, group = self._group(key, name)
        group.consumers[consumer] = self.now()
        found = stream.deliver(group, consumer, self.now(), options.get(b"COUNT"))
        if not found:
            return BLOCKED if b"BLOCK" in options else None
        return [[key, _entries(found)]]

    def do_xack(self, key, name, *ids):
        stream = self._stream(key)
        group = stream and stream.groups.get(name)
        if group is None:
            return 0
        return sum(group.pending.pop(_id(each), None) is not None for each in ids)

    def do_xautoclaim(self, key, name, consumer, idle, start, _, count, *just_id):
        stream, group = self._group(key, name)
        now = group.consumers[consumer] = self.now()
        found, deleted_ids, next_start = [], [], b"0-0"
        for version in [each for each in sorted(group.pending) if each >= _id(start)]:
            if len(found) + len(deleted_ids) == int(count):
                next_start = b"%d-%d" % version
                break
            entry = group.pending[version]
            if version not in stream.entries:
                del group.pending[version]
                deleted_ids.append(b"%d-%d" % version)
            elif now - entry.delivered_at >= int(idle):
                deliveries = entry.deliveries + (not just_id)
                group.pending[version] = PendingEntry(consumer, now, deliveries)
                found.append((version, stream.entries[version]))
        entries = _entries(found)
        return [next_start, [each for each, _ in entries] if just_id else entries, deleted_ids]

    def do_xpending(self, key, name, *args):
        _, group = self._group(key, name)
        if args:
            return [
                [b"%d-%d" % each, entry.consumer, self.now() - entry.delivered_at, entry.deliveries]
                for each, entry in sorted(group.pending.items())
            ][: int(args[-1])]
        if not group.pending:
            return [0, None, None, None]
        holders = [entry.consumer for entry in group.pending.values()]
        ends = [b"%d-%d" % end(group.pending) for end in (min, max)]
        each = [[name, b"%d" % holders.count(name)] for name in sorted(set(holders))]
        return [len(group.pending), *ends, each]

    # Scripts

    def do_eval(self, script, number, *args):
        function, allows_oom = _compiled(script)
        if self.memory_full and not allows_oom:
            raise ErrorReply("OOM allow-oom flag is not set on the script, can not run it")

        def call(*words):
            words = [b"%d" % each if isinstance(each, int) else each for each in words]
            return _to_lua(self._call(*words, check_memory=False))

        def pcall(*words):
            try:
                return call(*words)
            except ErrorReply as error:
                return error_reply(str(error).encode())

        def error_reply(text):
            return LUA.table_from({b"err": text})

        api = {b"call": call, b"pcall": pcall, b"error_reply": error_reply}
        keys, rest = args[: int(number)], args[int(number) :]
        return _from_lua(function(*map(LUA.table_from, (keys, rest, api))))


LUA = LuaRuntime(encoding=None, register_eval=False)


@cache
def _compiled(script):
    first, _, rest = script.partition(b"\n")
    return LUA.eval(b"function(KEYS, ARGV, redis)\n%s\nend" % rest), b"allow-oom" in first


def _to_lua(reply):
    match reply:
        case None:
            return False
        case Status():
            return LUA.table_from({b"ok": bytes(reply)})
        case list():
            return LUA.table_from([_to_lua(each) for each in reply])
    return reply


def _from_lua(value):
    if lua_type(value) == "table":
        if value[b"err"]:
            raise ErrorReply(value[b"err"].decode())
        if value[b"ok"]:
            return Status(value[b"ok"])
        found = []
        while (each := value[len(found) + 1]) is not None:
            found.append(_from_lua(each))
        return found
    if isinstance(value, float):
        return int(value)
    return (1 if value else None) if isinstance(value, bool) else value


def _id(text):
    return Version.parse(text if b"-" in text else text + b"-0")


def _bound(text, default, step):
    if text in {b"-", b"+"}:
        return Version(default, default)
    if not text.startswith(b"("):
        return Version.parse(text)
    ms, seq = Version.parse(text[1:])
    return Version(ms, seq + step)  # seq -1 sorts before every id of its millisecond


def _entries(found):
    return [[b"%d-%d" % version, fields] for version, fields in found]


def _flat(facts):
    return [part for fact in facts.items() for part in fact]
