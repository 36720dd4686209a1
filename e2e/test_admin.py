"""A vote is led on the admin page, as an operator reaches it."""

from collections import Counter

import httpx
from support.app import post_vote
from support.wait import wait_for

from e2e.operator_page import OperatorPage
from voting.poll.ballot import Choice
from voting.poll.question import Question

PREPARED = Question("Bread, rice or pasta?", ("Bread", "Rice", "Pasta"))


def test_a_prepared_question_is_asked_and_its_votes_are_counted(target, question):
    try:
        with target.admin() as url, OperatorPage(url) as operator:
            operator.press("add", title=PREPARED.title, names="\n".join(PREPARED.names))
            operator.press("close")
            wait_for("the final totals", lambda: 'class="final"' in operator.text, target.patience)
            operator.press("next")
            wait_for(
                "the question on the page",
                lambda: target.shows("vote", PREPARED),
                target.patience,
            )
            assert not operator.offers("remove")  # what is asked is no longer prepared
            with target.visitor("vote") as voter:
                assert post_vote(voter, "b").status_code == httpx.codes.OK
            wait_for("the vote", lambda: target.tally() == Counter([Choice.B]), target.patience)
            wait_for("the vote on this page", lambda: 'class="b leading"' in operator.text)
    finally:
        target.ask(question)


def test_the_admin_page_is_refused_under_the_name_of_a_public_page(target):
    with target.admin() as url:
        foreign = httpx.get(url, headers={"Host": "vote.localhost"}, trust_env=False)
        assert foreign.status_code == httpx.codes.MISDIRECTED_REQUEST
