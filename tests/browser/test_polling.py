"""When an open result page polls."""

import re
from urllib.parse import urlsplit

from playwright.sync_api import expect

from .pages import choose, expect_receipt, expect_totals, hide


def test_a_hidden_page_does_not_poll_until_it_is_shown_again(site, visitors):
    page, result = visitors.open(site.vote), visitors.open(site.result)
    with result.expect_request("**/tally"):
        pass
    hide(result, hidden=True)
    requested: list[str] = []
    result.on("request", lambda request: requested.append(request.url))
    choose(page, "a")
    expect_receipt(page, "is counted")
    page.reload()
    expect_receipt(page, "is counted")
    assert requested == []
    hide(result, hidden=False)
    expect_totals(result, 1, 0)


def test_a_page_polls_less_often_while_there_is_no_response(site, visitors):
    visitors.expect_no_response()
    result = visitors.open(site.result)
    # Each poll, as time that passes at once would also time out a poll that the server has.
    polls = re.compile("/(tally|timeline)$")
    result.route(polls, lambda route: route.abort())
    result.clock.install()
    result.reload()
    requested: list[str] = []
    result.on("request", lambda request: requested.append(urlsplit(request.url).path))
    for _ in range(40):  # seconds, without the waits for each failure
        result.clock.run_for(1000)
    assert 3 <= requested.count("/tally") <= 12
    result.unroute(polls)
    hide(result, hidden=False)  # polls at once
    expect(result.locator("#tally .notes")).to_be_empty()
