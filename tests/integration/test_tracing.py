"""What the spans of the vote role hold when a cast fails."""

import pytest
from support.asgi import client_of

from voting.queue.producer import MaybeRecorded, NotRecorded, PollClosed
from voting.roles.vote import VoteRole
from voting.settings import VoteSettings, load_settings

ENVIRON = {
    "REDIS_URL": "redis://unused",
    "SECRET_KEYS": "k" * 32,
    "OTEL_EXPORTER_OTLP_ENDPOINT": "http://unused",
}


class FailingCaster:
    """Raises an error whose text holds the voter and the choice."""

    def __init__(self, error):
        self._error = error
        self.texts = []

    async def cast(self, ballot, *_):
        self.texts.append(f"{ballot.voter.hex} votes {ballot.choice}")
        raise self._error(self.texts[-1])


@pytest.mark.parametrize("error", [PollClosed, NotRecorded, MaybeRecorded, ZeroDivisionError])
async def test_a_failed_span_of_a_vote_has_the_class_of_the_error_and_no_text(
    prepared, spans, error
):
    caster = FailingCaster(error)
    app = VoteRole(caster, prepared.vote, load_settings(VoteSettings, ENVIRON)).create_app()
    async with client_of(app, "http://vote.localhost") as client:
        await client.get("/")
        response = await client.post("/vote", data={"round": "1", "choice": "a"})
    assert response.headers["Voting-Recorded"] in {"no", "unknown"}
    [text] = caster.texts
    cast, request = spans.get_finished_spans()
    assert (cast.name, cast.attributes["error.type"]) == ("cast ballot", error.__name__)
    assert not cast.status.is_ok
    assert request.name == "POST /vote"
    for span in (cast, request):
        assert (span.events, span.status.description) == ((), None)
        assert text not in span.to_json()
