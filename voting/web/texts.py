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
    "kept_longer": "The result is shown later.",
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
    # The admin page
    "admin": "Lead the vote",
    "not_known": "The question can't be read right now.",
    "open": "Open",
    "planned": "Open until the planned time",
    "closing": "Closing: the queue has not confirmed it yet.",
    "in_all": ("has voted", "have voted"),
    "a_second": "votes a second",
    "waiting": ("waits to be counted", "wait to be counted"),
    "receipts": (
        "One voter has not been told yet that the vote is counted, for {age} s.",
        "{n:,} voters have not been told yet that their votes are counted, the first for {age} s.",
    ),
    "queue_away": (
        "This page can't reach the queue. Votes that the queue can't take are refused, and voters "
        "are told."
    ),
    "database_away": (
        "The database can't be reached: votes are accepted, and counted later. Nothing can be "
        "changed here until then."
    ),
    "since": "Since {time}.",
    "dead": ("{n:,} ballot can't be counted.", "{n:,} ballots can't be counted."),
    "asking": "Next is “{title}”, once all votes of this round are counted.",
    "still_hidden": "Totals are hidden from the public.",
    "show_totals": "Show them here",
    "hide_totals": "Hide them",
    "do_close": "Close now",
    "does_close": "Votes are refused from then on.",
    "close_in": "Close in",
    "do_close-1": "1 min",
    "do_close-5": "5 min",
    "do_close-10": "10 min",
    "close_time": "or at",
    "do_close-at": "Close then",
    "time_in_utc": "UTC",
    "time_here": "your time, {zone}",
    "do_keep": "Keep open",
    "does_keep": "Cancels the planned close.",
    "does_keep_in_conflict": "Voting goes on from the state that this page shows.",
    "do_reopen": "Open again",
    "does_reopen": "Voting goes on with the votes so far.",
    "does_reopen_final": "Voting goes on. This revokes the final result.",
    "do_again": "Same question again",
    "does_again": "In a new round, from zero.",
    "do_next": "Next question",
    "does_next": "Asks “{title}”.",
    "does_next_later": "Asks “{title}” once this round is closed and counted.",
    "do_reveal": "Reveal the result",
    "does_reveal": "Shows the totals to all.",
    "do_remove": "Delete",
    "cancel": "Cancel",
    "removes": "Delete the prepared question “{title}”?",
    "now_asks": "Another question is asked now: “{title}”.",
    "now_open": "Voting is open now.",
    "now_scheduled": "Voting is open; its time to close has changed.",
    "now_counting": "Voting is closed now.",
    "now_final": "The result is final now.",
    "earlier_rounds": "Earlier rounds",
    "reveal": "Reveal",
    "reveal_one": "Reveal: {title}",
    "show_one": "Show them here: {title}",
    "hide_one": "Hide them: {title}",
    "prepared": "Next questions",
    "none_prepared": "No question is prepared.",
    "move_up": "Move up: {title}",
    "move_down": "Move down: {title}",
    "change": "Change",
    "change_one": "Change: {title}",
    "remove_one": "Delete: {title}",
    "write": "Write a question",
    "rewrite": "Change a question",
    "question": "Question",
    "options": "Options, one a line",
    "do_add": "Add it",
    "do_change": "Save",
    "show_code": "QR code for voters",
    "do_audit": "Audit",
    "does_audit": "Compares queue, votes and totals. Voting goes on meanwhile.",
    "audited": (
        "Queue, votes and totals agree: {n:,} vote, and {entries:,} ballots still in the queue.",
        "Queue, votes and totals agree: {n:,} votes, and {entries:,} ballots still in the queue.",
    ),
    "wrong": "Queue, votes and totals do not agree:",
    "needs_token": "Everyone with the address that has the token can lead the vote.",
    "needs_no_token": (
        "This page asks for no token: everyone who can connect to it can lead the vote."
    ),
    "reload": "Look again",
}


def text(name: str, n: int | None = None, **values: Any) -> Markup:
    """Return a text as markup, with `n` and `values` filled in and escaped. Raises KeyError."""
    found = TEXTS[name]
    return Markup(found if isinstance(found, str) else found[n != 1]).format(n=n, **values)  # noqa: S704 - a constant
