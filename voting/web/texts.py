"""Every text of the pages except the error messages: plain English, short."""

from typing import Any

from markupsafe import Markup

# A pair is a text that depends on a number `n`: for 1, and for every other number.
TEXTS: dict[str, str | tuple[str, str]] = {
    # Both pages
    "vote": "Vote",
    "see_result": "See the result",
    "closed": "Voting is closed.",
    "closes": "Voting closes",
    "at": "on {day} {time:%B %Y at %H:%M:%S} UTC",
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
    "about_final": "Final result: {totals}.",
    "option_share": "{option} {share:.1f} %",
    "totals": "Totals",
    "live": "Live",
    "counting": "Voting is closed. Counting the last votes.",
    "final": "Final result",
    "of": "of {time}",
    "kept_back": "The result is shown when voting closes.",
    "share": "{share:.1f}&nbsp;%",
    "no_share": "&ndash;",
    "votes": ("{n:,} vote", "{n:,} votes"),
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
    # All rounds
    "rounds": "All rounds",
    "round": "Round {n}",
    "about_rounds": "See the final result of each round.",
    "no_rounds": "No round has a final result yet.",
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


def text(name: str, n: int | None = None, **values: Any) -> Markup:
    """Return a text as markup, with `n` and `values` filled in and escaped. Raises KeyError."""
    found = TEXTS[name]
    return Markup(found if isinstance(found, str) else found[n != 1]).format(n=n, **values)  # noqa: S704 - a constant
