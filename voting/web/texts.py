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
    "planned": "Open until a time",
    "closing": "Closing: the queue has not confirmed it yet.",
    "in_all": ("has voted", "have voted"),
    "a_second": "votes a second",
    "waiting": ("waits to be counted", "wait to be counted"),
    "receipts": (
        "One voter waits for the receipt, for {age} s.",
        "{n:,} voters wait for their receipts, the first for {age} s.",
    ),
    "queue_away": "The queue can't be reached: no vote is taken. Voters are told so.",
    "database_away": (
        "The database can't be reached: votes are taken, and counted later. Nothing can be changed."
    ),
    "since": "Since {time}.",
    "dead": ("{n:,} entry can't be counted.", "{n:,} entries can't be counted."),
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
    "does_next_later": "Closes this one, counts it, then asks “{title}”.",
    "do_reveal": "Reveal the result",
    "does_reveal": "Shows the totals to all.",
    "do_remove": "Delete",
    "cancel": "Cancel",
    "removes": "Delete the prepared question “{title}”?",
    "now_asks": "Another question is asked now: “{title}”.",
    "now_open": "Voting is open now.",
    "now_scheduled": "Voting is open, and has another time to close now.",
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
        "All agrees: {n:,} vote, and {entries:,} ballots that the queue still has.",
        "All agrees: {n:,} votes, and {entries:,} ballots that the queue still has.",
    ),
    "wrong": "Something does not agree:",
    "needs_token": "This page is open to all who have the address that voting up printed.",
    "needs_no_token": "This page asks for no password: the port-forward has said who you are.",
    "reload": "Look again",
}


def text(name: str, n: int | None = None, **values: Any) -> Markup:
    """Return a text as markup, with `n` and `values` filled in and escaped. Raises KeyError."""
    found = TEXTS[name]
    return Markup(found if isinstance(found, str) else found[n != 1]).format(n=n, **values)  # noqa: S704 - a constant
