"""The table of a poll's life, and the page that draws it."""

from datetime import UTC, datetime
from pathlib import Path

import pytest

from voting.poll.ballot import Version
from voting.poll.lifecycle import TRANSITIONS, Event, LifecycleState, Phase, Poll

PAGE = Path(__file__).parent.parent.parent / "docs/explanation/lifecycle.md"
AT = datetime(2030, 1, 2, tzinfo=UTC)

POLLS = {
    LifecycleState.OPEN: Poll(),
    LifecycleState.SCHEDULED: Poll(closes_at=AT),
    LifecycleState.CLOSING: Poll(state="closed"),
    LifecycleState.COUNTING: Poll(state="closed", closed_at=AT, last_version=Version(1, 0)),
    LifecycleState.FINAL: Poll(
        state="closed", closes_at=AT, closed_at=AT, last_version=Version(1, 0), final_at=AT
    ),
}


def draw() -> str:
    """Draw the table as a diagram in Mermaid's language."""
    lines = [
        f"    {source} --> {transition.target}: {event}"
        for event, transition in TRANSITIONS.items()
        for source in LifecycleState
        if source in transition.sources
    ]
    return "\n".join(["```mermaid", "stateDiagram-v2", "    [*] --> open", *lines, "```"])


def test_page_has_the_diagram_of_the_table():
    assert draw() in PAGE.read_text()


def test_page_explains_each_state_and_each_event():
    page = PAGE.read_text()
    assert [name for name in [*LifecycleState, *Event] if f"| {name} |" not in page] == []


@pytest.mark.parametrize("state", LifecycleState)
def test_poll_is_in_the_state_that_its_fields_show(state):
    assert POLLS[state].lifecycle_state is state


def test_phase_hides_whether_a_poll_is_scheduled_or_closing():
    assert {state: poll.phase for state, poll in POLLS.items()} == {
        LifecycleState.OPEN: Phase.OPEN,
        LifecycleState.SCHEDULED: Phase.OPEN,
        LifecycleState.CLOSING: Phase.COUNTING,
        LifecycleState.COUNTING: Phase.COUNTING,
        LifecycleState.FINAL: Phase.FINAL,
    }


@pytest.mark.parametrize("event", Event)
def test_poll_allows_an_event_in_the_states_of_the_table(event):
    allowing = {state for state, poll in POLLS.items() if poll.allows(event)}
    assert allowing == TRANSITIONS[event].sources


def test_ballots_are_accepted_again_only_after_an_operator_has_opened_the_poll():
    opening = {
        event
        for event, transition in TRANSITIONS.items()
        if transition.target in {LifecycleState.OPEN, LifecycleState.SCHEDULED}
        and transition.sources - {LifecycleState.OPEN, LifecycleState.SCHEDULED}
    }
    assert opening == {Event.REOPEN, Event.START_ROUND}


def test_final_is_reached_only_through_a_confirmed_close():
    leading = {
        source
        for transition in TRANSITIONS.values()
        if transition.target is LifecycleState.FINAL
        for source in transition.sources
    }
    assert leading == {LifecycleState.COUNTING}
    assert TRANSITIONS[Event.CLOSE_CONFIRMED].target is LifecycleState.COUNTING
