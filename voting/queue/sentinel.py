"""Connections to the primary of three servers, which Sentinels watch and replace."""

import asyncio
from collections import Counter
from math import inf
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from redis.asyncio import Redis
from redis.asyncio.connection import parse_url
from redis.asyncio.sentinel import MasterNotFoundError, Sentinel, SentinelConnectionPool
from redis.exceptions import RedisError

SENTINEL_PORT = 26379

# Seconds in which a Sentinel has to answer: one on a dead machine never does.
ASK_TIMEOUT = 0.4

# Seconds for which the primary is trusted, from when the Sentinels were asked; after the second,
# those who use it ask again meanwhile.
LEASE = 1.0
RENEW_AFTER = 0.4

# Sentinels replace a primary that has not answered for `down-after-milliseconds`. One that is
# trusted has answered this much later than that would take, in ms: so its lease has ended at least
# 1.5 s before. From then on they read each second how far its replicas are, before they choose one.
MARGIN_MS = 2_500

# Seconds for which a primary that was in doubt is not trusted as long as a Sentinel is silent: that
# one may be about to replace it, by votes that the others gave before they saw it alive again.
SETTLED = 5.0

# Flags of a primary that at least one Sentinel is about to replace.
_ENDING = {"o_down", "failover_in_progress"}

Address = tuple[str, int]


class NotReplicated(RedisError):
    """It is not known whether a write outlives the loss of this primary."""


class _Answer(NamedTuple):
    """What a Sentinel says."""

    primary: Address
    alive: bool
    ending: bool
    epoch: int
    sentinels: int
    quorum: int


class PrimaryPool(SentinelConnectionPool):
    """Connections to the primary that enough Sentinels see alive.

    redis-py asks one Sentinel, before it connects. That is not enough to acknowledge a vote: the
    others may be about to promote a replica that does not have it. `confirm` asks all.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.master_address: Address | None = None
        self._confirmed_at = self._doubted_at = -inf
        self._asking: asyncio.Task[None] | None = None
        self._problem = ""

    async def get_master_address(self) -> Address:
        """Return the address of the primary. Raises MasterNotFoundError."""
        await self._ask()
        if self._problem or self.master_address is None:
            raise MasterNotFoundError(self._problem)
        return self.master_address

    async def confirm(self, connection: Any) -> None:
        """Raise NotReplicated unless `connection` leads to a server that stays the primary.

        What a replica has on disk when this is called is on the next primary too.
        """
        if self._age() > LEASE:
            await self._ask()
        elif self._age() > RENEW_AFTER:
            self._start_asking()
        if self._age() > LEASE:
            raise NotReplicated(self._problem)
        if self.master_address != (connection.host, connection.port):
            raise NotReplicated("the server is not the primary any more")

    async def aclose(self) -> None:
        if self._asking is not None:
            await asyncio.wait({self._asking})
        await super().aclose()
        await self.sentinel_manager.aclose()

    def _age(self) -> float:
        return asyncio.get_running_loop().time() - self._confirmed_at

    async def _ask(self) -> None:
        asking = self._start_asking()
        await asyncio.wait({asking})
        asking.result()

    def _start_asking(self) -> asyncio.Task[None]:
        """Ask the Sentinels, or join those who do: a task, which no cancellation ends."""
        if self._asking is None or self._asking.done():
            self._asking = asyncio.create_task(self._ask_all())
        return self._asking

    async def _ask_all(self) -> None:
        asked_at = asyncio.get_running_loop().time()
        sentinels = self.sentinel_manager.sentinels
        found = await asyncio.gather(*(self._ask_one(each) for each in sentinels))
        answers = [each for each in found if isinstance(each, _Answer)]
        if not all(each.alive for each in answers):
            self._doubted_at = asked_at
        primary = _agreed(answers)
        settled = len(answers) == len(sentinels) or asked_at - self._doubted_at > SETTLED
        if primary is None or (primary == self.master_address and not settled):
            said = "; ".join(map(str, found))
            self._problem = f"Sentinels do not agree on a primary that is alive: {said}"
            return
        self._problem, self._confirmed_at = "", asked_at
        if self.master_address != primary:
            self.master_address, self._doubted_at = primary, -inf
            await self.update_active_connections_for_reconnect()
            await self.disconnect(inuse_connections=False)

    async def _ask_one(self, sentinel: Redis) -> _Answer | str:
        """Return the answer, or why there is none."""
        try:
            async with asyncio.timeout(ASK_TIMEOUT):
                state: Any = await sentinel.sentinel_master(self.service_name)
        except (RedisError, OSError, TimeoutError) as error:
            return f"no answer ({error or 'in time'})"
        flags = set(state["flags"].split(","))
        patience = state["down-after-milliseconds"] - MARGIN_MS
        if patience <= 0:
            return f"its down-after-milliseconds is not above {MARGIN_MS}"
        return _Answer(
            primary=(state["ip"], state["port"]),
            alive=flags == {"master"} and int(state["last-ok-ping-reply"]) <= patience,
            ending=bool(flags & _ENDING),
            epoch=state["config-epoch"],
            sentinels=state["num-other-sentinels"] + 1,
            quorum=state["quorum"],
        )


def _agreed(answers: list[_Answer]) -> Address | None:
    """Return the primary that so many see alive that the others can't replace it."""
    alive = Counter(each.primary for each in answers if each.alive)
    if not alive or any(each.ending for each in answers):
        return None
    [(primary, count)] = alive.most_common(1)
    epoch = max(each.epoch for each in answers if each.primary == primary)
    newer = any(each.epoch > epoch for each in answers)
    most, quorum = max(each.sentinels for each in answers), min(each.quorum for each in answers)
    return primary if count > most - quorum and not newer else None


def connect_to_primary(url: str, *, redis_connect_func: Any, **options: Any) -> Redis:
    """Create a client for redis+sentinel://user:password@host:port,host:port/name.

    Its user, its TLS parameters and `options` are for the Sentinels too.
    """
    scheme, _, rest = url.partition("+sentinel://")
    servers, _, query = rest.partition("?")
    login, at, servers = servers.rpartition("@")
    hosts, _, name = servers.partition("/")
    parts = [urlsplit(f"//{host}") for host in hosts.split(",")]
    parsed: dict[str, Any] = {**parse_url(f"{scheme}://{login}{at}?{query}")}
    options |= {"ssl": parsed.pop("connection_class", None) is not None, **parsed}
    sentinel = Sentinel(
        [(each.hostname or "", each.port or SENTINEL_PORT) for each in parts],
        sentinel_kwargs=options,
        **options,
    )
    redis: Redis = sentinel.master_for(
        name, connection_pool_class=PrimaryPool, redis_connect_func=redis_connect_func
    )
    return redis
