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


def test_a_page_can_not_be_framed(site, visitors):
    visitors.expect_violations()
    page = visitors.open(site.result)
    page.set_content(f'<iframe src="{site.vote}"></iframe>')
    expect(page.frame_locator("iframe").locator("body")).to_be_attached()
    assert page.frame_locator("iframe").locator("#ballot").count() == 0
