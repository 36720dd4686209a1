"""Every text of the pages: plain English, short. Pure, and nothing else of the app in it."""

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from markupsafe import Markup

# Two forms where it depends on a number, `n`: for one, and for none or many.
TEXTS: dict[str, str | tuple[str, str]] = {
    # Both pages
    "vote": "Vote",
    "see_result": "See the result",
    "closed": "Voting is closed.",
    "closes": "Voting closes",
    "at": "at {time} UTC",
    "in": "in {time}",
    "moment": "{day} {month:%B %Y, %H:%M} UTC",
    "back": "Back to the page",
    # The vote page
    "about_vote": "Pick one. It takes a second.",
    "choice": "✓ Your choice",
    "sending": "Sending …",
    "pick": "Pick one. You can change your mind later.",
    "not_voted": "You have not voted here.",
    "queued": "Queued",
    "counted": "Counted",
    "will_count": "Your vote for {option} is recorded and will be counted in a moment.",
    "is_late": (
        "Your vote for {option} is recorded and will be counted. That takes longer than usual: "
        "you need not wait here."
    ),
    "is_counted": "Your vote for {option} is counted.",
    "may_change": "You can change it until voting closes.",
    # The result
    "result": "Result",
    "about_result": "See how the vote goes.",
    "about_final": "Final result: {a} {share_a:.1f} %, {b} {share_b:.1f} %.",
    "totals": "Totals",
    "live": "Live",
    "counting": "Voting is closed. Counting the last votes.",
    "final": "Final result",
    "of": "of {time}",
    "kept_back": "The result is shown when voting closes.",
    "share": "{share:.1f}&nbsp;%",
    "no_share": "&ndash;",
    "votes": ("{n:,} vote", "{n:,} votes"),
    "not_known": "not known",
    "leads": "leading by {n:,}",
    "led": "ahead by {n:,}",
    "won": "won by {n:,}",
    "tie": "a tie",
    "voters": ("{n:,} voter", "{n:,} voters"),
    "have_voted": ("person has voted.", "people have voted."),
    "no_votes": "No votes yet.",
    "not_read": "The totals can't be read right now.",
    "lost": (
        "The queue of votes was lost at {time}. Votes that were not counted by then are missing."
    ),
    "stale": "These totals are old: the database can't be asked right now. We keep trying.",
    "unreachable": "These totals may be old: there is no answer. We keep trying.",
    "updated": "Updated",
    "ago": "{time} ago",
    "screen": "Show on a big screen",
    "code": "QR code of {address}",
    "download": "Download as {csv} or {json}",
    # The timeline
    "over_time": "Share of the votes over time",
    "voters_over_time": "Voters over time",
    "no_timeline": "It starts with the first vote.",
    "timeline_read": (
        "{option}: at first {first:.1f} %, in the end {last:.1f} %, at least {least:.1f} % and at "
        "most {most:.1f} %."
    ),
    "utc": "{time} UTC",
}


def say(name: str, n: int | None = None, **values: Any) -> Markup:
    """Fill in a text, as markup: what is no markup itself is escaped. Raises KeyError."""
    text = TEXTS[name]
    return Markup(text if isinstance(text, str) else text[n != 1]).format(n=n, **values)  # noqa: S704 - ours


@dataclass(frozen=True, slots=True)
class Problem:
    """What went wrong, in plain words, and what it means for the vote."""

    status: HTTPStatus
    headline: str
    advice: str
    # In seconds. The same problem may take longer another time; no page tells how long.
    retry_after: int | None = field(default=None, compare=False)

    @property
    def headers(self) -> dict[str, str]:
        headers = {"Cache-Control": "no-store"}
        if self.retry_after is not None:
            headers["Retry-After"] = str(self.retry_after)
        return headers


# On both pages
NOT_FOUND = Problem(HTTPStatus.NOT_FOUND, "There is no such page.", "Check the address.")
NOT_ALLOWED = Problem(
    HTTPStatus.METHOD_NOT_ALLOWED, "This page can't be asked in that way.", "Go back and reload it."
)
TOO_LARGE = Problem(
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
    "That is too much to read.",
    "Nothing was recorded. Go back and choose again.",
)
INTERNAL_ERROR = Problem(
    HTTPStatus.INTERNAL_SERVER_ERROR,
    "Something broke on our side.",
    "Please try again in a moment.",
)


def bad_request(status: HTTPStatus) -> Problem:
    """Say that a request makes no sense."""
    return Problem(status, "That request can't be understood.", "Reload the page.")


# For a vote
CROSS_ORIGIN = Problem(
    HTTPStatus.FORBIDDEN,
    "This vote came from another site.",
    "It was not recorded. Open the voting page itself and choose there.",
)
NO_COOKIE = Problem(
    HTTPStatus.BAD_REQUEST,
    "Your browser has to accept cookies to vote.",
    "Your vote was not recorded. Allow cookies for this site, reload the page and choose again.",
)
RATE_LIMITED = Problem(
    HTTPStatus.TOO_MANY_REQUESTS,
    "That was too often.",
    "This vote was not recorded. The one before it counts. Please wait, then choose again.",
    retry_after=60,
)
CLOSED = Problem(
    HTTPStatus.CONFLICT,
    "Voting is closed.",
    "This vote was not recorded. If you had voted before, that vote counts.",
)
QUEUE_UNAVAILABLE = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "We can't take votes right now.",
    "Your vote was not recorded. Please choose again in a moment.",
    retry_after=2,
)
FULL = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Too many votes are waiting to be counted.",
    "Your vote was not recorded. Please choose again in a minute.",
    retry_after=30,
)
UNKNOWN = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "We don't know whether your vote was recorded.",
    "It may have been, or not. Please choose again: only your last choice counts.",
    retry_after=2,
)
_FORM_ADVICE = "Nothing was recorded. Go back to the page and choose there."
INVALID_FORM = {
    status: Problem(status, headline, _FORM_ADVICE)
    for status, headline in (
        (HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "This is not what the voting page sends."),
        (HTTPStatus.UNPROCESSABLE_ENTITY, "This is not one of the two choices."),
    )
}

# For an export
EXPORT_BUSY = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "Others are downloading the result right now.",
    "Please try again in a few seconds.",
    retry_after=5,
)
DATABASE_UNAVAILABLE = Problem(
    HTTPStatus.SERVICE_UNAVAILABLE,
    "The result can't be read right now.",
    "Please try again in a few seconds.",
    retry_after=5,
)
NO_ROUND = Problem(
    HTTPStatus.NOT_FOUND,
    "There is no such round.",
    "Leave the round out of the address for the one that runs now.",
)
INVALID_ROUND = Problem(
    HTTPStatus.BAD_REQUEST,
    "A round is a number.",
    "Leave the round out of the address for the one that runs now.",
)
