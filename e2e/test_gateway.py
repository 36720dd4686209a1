"""What a Gateway does that an Ingress cannot."""

import json

import pytest
from support.app import post_vote
from support.wait import wait_for

pytestmark = [pytest.mark.cluster, pytest.mark.gateway]

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"


@pytest.fixture
def followed(cluster):
    """A vote role that logs the trace of each ballot."""
    cluster.kubectl("set", "env", "deployment/vote", "LOG_LEVEL=debug")
    cluster.ready()
    yield
    cluster.kubectl("set", "env", "deployment/vote", "LOG_LEVEL-")
    cluster.ready()


def test_the_trace_of_a_client_is_not_continued(cluster, followed):  # noqa: ARG001 - logs
    headers = {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"}

    def traces() -> set[str]:
        """Vote, and return the traces of all ballots so far."""
        with cluster.visitor("vote") as voter:
            assert post_vote(voter, "a", headers).status_code == 200
        lines = [
            json.loads(line)
            for pod in cluster.pods("vote")
            for line in cluster.kubectl("logs", pod["metadata"]["name"]).splitlines()
            if "ballot accepted" in line
        ]
        return {line["request"] for line in lines}

    # A pod of before the change may still respond, and logs none.
    wait_for("a ballot in the log", traces, cluster.patience)
    assert TRACE not in traces()
