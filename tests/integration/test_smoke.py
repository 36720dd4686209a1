from uuid import uuid4

from voting import tally
from voting.ballots import ZERO, Ballot, Choice


async def test_a_cast_ballot_is_read_and_counted(stream, engine):
    await stream.prepare(ZERO, "open")
    version = await stream.cast(Ballot(uuid4(), Choice.A))
    [entry] = await stream.read("me", count=10, block=0.1)
    assert entry.version == version
    await tally.count(engine, [entry.ballot()])
    totals = await tally.totals(engine)
    assert (totals.a, totals.b) == (1, 0)
    await stream.done([entry])
    assert (await stream.position()).counted(version)
