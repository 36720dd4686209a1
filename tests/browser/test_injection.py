"""Injected markup has no effect, and no page can be framed."""

import pytest
from playwright.sync_api import expect
from support.wait import wait_for

INJECT = """() => {
  window.violations = [];
  document.addEventListener("securitypolicyviolation", ({ effectiveDirective }) => {
    window.violations.push(effectiveDirective);
  });
  document.body.insertAdjacentHTML("beforeend", `
    <img src="data:," onerror="window.ran = 'a handler'">
    <iframe src="data:text/html,<script>parent.ran = 'a frame'</script>"></iframe>
    <object data="data:text/html,"></object>
    <a id="link" href="javascript:window.ran = 'an address'">a link</a>
    <p id="styled" style="position: fixed">a style</p>
    <base href="https://evil.example/">
    <form action="https://evil.example/"><button id="away">a form</button></form>`);
  for (const content of [{ textContent: "window.ran = 'a script'" },
                         { src: "data:text/javascript,window.ran = 'a file'" }]) {
    document.body.append(Object.assign(document.createElement("script"), content));
  }
  document.querySelector("#link").click();
  document.querySelector("#away").click();
  fetch("https://evil.example/").catch(() => null);
}"""

POLICY = {
    *("base-uri", "connect-src", "form-action", "frame-src", "img-src", "object-src"),
    *("script-src-attr", "script-src-elem", "style-src-attr"),
}


@pytest.mark.parametrize("name", ["vote", "result"])
def test_injected_markup_has_no_effect(site, visitors, name):
    address = getattr(site, name)
    page = visitors.open(address)
    visitors.expect_violations()
    page.evaluate(INJECT)
    wait_for("all violations", lambda: set(page.evaluate("window.violations")) == POLICY)
    assert page.evaluate("window.ran") is None
    assert page.evaluate("document.baseURI") == f"{address}/"
    position = "getComputedStyle(document.querySelector('#styled')).position"
    assert page.evaluate(position) == "static"


@pytest.fixture
def embed(slides, visitors):
    """Open a page of another origin with a frame, and return both."""

    def open_(address, origin=slides):
        visitors.allow_host(address)
        page = visitors.open(f"{origin}/?{address}")
        return page, page.frame_locator("iframe")

    return open_


def test_slides_can_embed_the_result_and_read_it(site, embed):
    page, frame = embed(f"{site.result}/screen")
    expect(frame.get_by_role("heading", name="Cats or Dogs?")).to_be_visible()
    read = "async (url) => (await (await fetch(url)).json()).title"
    assert page.evaluate(read, f"{site.result}/api/tally") == "Cats or Dogs?"


def expect_blocked_frame(page):
    page.frames[-1].wait_for_url("chrome-error://chromewebdata/", wait_until="commit")


def test_a_page_can_not_be_framed(site, embed, visitors):
    visitors.expect_violations()
    page, _ = embed(site.vote)
    expect_blocked_frame(page)


def test_another_site_can_not_embed_the_result_or_read_it(site, embed, slides, visitors):
    visitors.expect_violations()
    visitors.expect_no_response()
    visitors.expect_no_access()
    page, _ = embed(site.result, slides.replace("127.0.0.1", "localhost"))
    expect_blocked_frame(page)
    refused = "(url) => fetch(url).then(() => false, () => true)"
    assert page.evaluate(refused, f"{site.result}/api/tally")
