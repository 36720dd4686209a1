"""Waiting until the result page agrees with what voters were told."""

import asyncio

from voting.load.client import Client, NoAnswer
from voting.load.record import Expected, Shown, Verdict, compare

# The totals are asked for once a second, and a proxy may keep them for one more: what has not moved
# for so long, in seconds, rests.
STEADY = 4.0

# Seconds in which the result has to come to rest before the first vote.
_REST = 15.0

_LOOK = 0.25  # seconds between two looks


async def rest(client: Client) -> Shown:
    """Wait until what was cast before is counted, as far as the page shows. Raises NoAnswer."""
    loop = asyncio.get_running_loop()
    shown = await client.shown()
    start = moved = loop.time()
    while loop.time() - moved < STEADY:
        if loop.time() - start > _REST:
            raise NoAnswer("the result does not come to rest: others vote, nothing can be checked")
        await asyncio.sleep(_LOOK)
        now = await client.shown()
        if now != shown:
            shown, moved = now, loop.time()
    return shown


async def check(client: Client, expected: Expected, before: Shown, patience: float) -> Verdict:
    """Wait until the result agrees and rests, or has not moved for `patience` seconds.

    It may agree for a moment on its way: changes of mind that are not counted yet can be even.
    """
    loop = asyncio.get_running_loop()
    shown, moved = None, loop.time()
    verdict = Verdict(agrees=False, line="")
    while loop.time() - moved < (STEADY if verdict.agrees else patience):
        try:
            now = await client.shown()
        except NoAnswer as error:
            verdict = Verdict(agrees=False, line=f"not known: {error}")
        else:
            if now != shown:
                shown, moved = now, loop.time()
            verdict = compare(expected, before, now)
        await asyncio.sleep(_LOOK)
    return verdict
