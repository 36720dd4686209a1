from datetime import UTC, datetime

import pytest

from voting.roles.admin_forms import Action, PollForm, closes_at
from voting.web.errors import NOT_A_TIME, ProblemError

NOW = datetime(2030, 1, 2, 20, 15, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    ("do", "given", "at"),
    [
        (Action.CLOSE_1, {}, "2030-01-02T20:16:30"),
        (Action.CLOSE_5, {}, "2030-01-02T20:20:30"),
        (Action.CLOSE_10, {}, "2030-01-02T20:25:30"),
        (Action.CLOSE_AT, {"time": "21:00"}, "2030-01-02T21:00:00"),
        (Action.CLOSE_AT, {"time": "20:15"}, "2030-01-03T20:15:00"),  # of the next day
        (Action.CLOSE_AT, {"time": "00:00"}, "2030-01-03T00:00:00"),
        (
            Action.CLOSE_AT,  # by the browser, which knows its zone
            {"time": "00:00", "instant": "2030-01-02T23:30:00+01:00"},
            "2030-01-02T22:30:00",
        ),
    ],
)
def test_when_a_form_closes_the_poll(do, given, at):
    assert closes_at(PollForm(do, **given), NOW) == datetime.fromisoformat(at).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    "given",
    [
        {"instant": "2001-01-01T00:00:00Z"},
        {"instant": "2030-01-02T20:15:30Z"},
        {"instant": "0001-01-01T00:00:00+14:00"},
        {"instant": "soon"},
        {"time": "25:00"},
        {},
    ],
)
def test_what_is_not_a_time_in_the_future_is_refused(given):
    with pytest.raises(ProblemError) as refused:
        closes_at(PollForm(Action.CLOSE_AT, **given), NOW)
    assert refused.value.problem == NOT_A_TIME
