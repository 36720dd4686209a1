"""`voting up`, and a Chromium that opens its pages."""

import html
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import unquote, urlsplit

import httpx
import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, expect, sync_playwright
from support.app import VotingUp, data_folder
from support.environ import ENVIRON
from support.wait import DEADLINE, wait_for

from voting.poll.question import Question

DISABLED = (
    # The popup of the address bar is two pages more for each window, a third of all the work.
    *("WebUIOmniboxPopup", "WebUIOmniboxAimPopup"),
    # Chromium takes the last list only: these are in Playwright's.
    *("HttpsUpgrades", "PaintHolding", "AvoidUnnecessaryBeforeUnloadCheckSync"),
    "ThirdPartyStoragePartitioning",
)
ARGUMENTS = (
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"),
    *("--disable-background-networking", "--disable-component-update"),
    f"--disable-features={','.join(DISABLED)}",
)

# Texts at the limit of what the settings allow.
TITLE = "<b>Which</b> of <script>alert(1)</script> & these, " + "and please think of it, " * 6
LONG = "W" * 60
MIXED = "🐶 כלבים שמחים ועליזים <i>dogs</i> & قطط سعيدة في البيت"

# Opens a poll that a test has closed with SQL.
OPEN = """
UPDATE poll SET state = 'open', until_ms = NULL, until_seq = NULL, closed_at = NULL,
  final_at = NULL, lost_at = NULL
"""

expect.set_options(timeout=DEADLINE * 1000)


class Site:
    """A running app and the addresses of its pages."""

    def __init__(self, folder: Path, **environ: str) -> None:
        self.up = VotingUp(folder, **environ).ready()
        self.vote = self.up.address("vote")
        self.result = self.up.address("result")
        self._question = Question()

    def ask(self, question: Question) -> None:
        """Ask a question in a round of its own, unless the round that runs asks it."""
        if question != self._question:
            command = [sys.executable, "-P", "-m", "voting", "ask", "--yes"]
            words = (question.title, *question.names)
            data = ("--data", str(self.up.data))
            subprocess.run([*command, *data, *words], env=ENVIRON, check=True)
            self._question = question
            title = html.escape(question.title, quote=False)
            pages = self.vote, self.result
            wait_for("the question", lambda: all(title in httpx.get(each).text for each in pages))


class Visitors:
    """Opens pages, each in its own browser context, and records console errors."""

    def __init__(self, browser: Browser) -> None:
        self._browser = browser
        self.locale: str | None = None  # of the browser, whose own is English
        self._contexts: list[BrowserContext] = []
        self._errors: list[str] = []
        self._hosts: set[str] = set()
        self._allowed: list[str] = []

    def open(self, address: str, *, javascript: bool = True, **options: Any) -> Page:
        """Open `address` as a new visitor, without cookies."""
        self.allow_host(address)
        context = self._browser.new_context(
            java_script_enabled=javascript, locale=self.locale, **options
        )
        self._contexts.append(context)
        context.on("console", lambda message: self._record(message.type, message.text))
        context.on("weberror", lambda error: self._record("error", str(error.error)))
        context.on("request", self._check)
        page = context.new_page()
        page.goto(address)
        return page

    def allow_host(self, address: str) -> None:
        """Allow requests to the host of this address."""
        self._hosts.add(urlsplit(address).netloc)

    def expect_no_access(self) -> None:
        """Allow console errors about responses that CORS keeps from a script."""
        self._allowed.append("error: Access to fetch .* CORS policy")

    def expect_status(self, status: int) -> None:
        """Allow console errors about responses with this status."""
        failed = "error: Failed to load resource: the server responded with a status of"
        self._allowed.append(f"{failed} {status} ")

    def expect_no_response(self) -> None:
        """Allow console errors about requests without a response."""
        self._allowed.append("error: Failed to load resource: net::ERR_")
        self._allowed.append("error: htmx: htmx:error: Failed to fetch")

    def expect_violations(self) -> None:
        """Allow console errors about violations of the content security policy."""
        self._allowed.append("error: .* Content Security Policy")

    def close(self) -> list[str]:
        """Close all pages, and return the errors that were not expected."""
        for context in self._contexts:
            context.close()
        allowed = re.compile("|".join(self._allowed) or "(?!)")
        return [error for error in self._errors if not allowed.match(error)]

    def _record(self, kind: str, text: str) -> None:
        if kind in {"error", "warning"}:
            self._errors.append(f"{kind}: {text}")

    def _check(self, request: Request) -> None:
        if urlsplit(request.url).netloc not in self._hosts:
            self._errors.append(f"request to another host: {request.url}")


@contextmanager
def running(**environ: str) -> Iterator[Site]:
    """Run the app with these settings, and stop it as a user does."""
    with data_folder() as folder:
        site = Site(folder / "data", **environ)
        yield site
        code = site.up.interrupt()
        site.up.close()
    assert code == 0


class Slides(BaseHTTPRequestHandler):
    """Pages of another site, each with a frame of the page that `?` names."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(f'<iframe src="{unquote(urlsplit(self.path).query)}"></iframe>'.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture(scope="package")
def slides() -> Iterator[str]:
    """Return the address of a site that may embed the result of `site`."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Slides) as server:
        Thread(target=server.serve_forever).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="package")
def one_site(slides) -> Iterator[Site]:
    with running(EMBED_IN=slides) as site:
        yield site


@pytest.fixture
def site(one_site) -> Site:
    """The app with an open poll without votes, which asks for Cats or Dogs."""
    one_site.up.reset()
    one_site.ask(Question())
    return one_site


@pytest.fixture(scope="package")
def one_hidden_site() -> Iterator[Site]:
    with running(SHOW_RESULTS="after_close") as site:
        yield site


@pytest.fixture
def hidden_site(one_hidden_site) -> Iterator[Site]:
    """The app with an open poll without votes, whose result is hidden."""
    one_hidden_site.up.sql(OPEN)
    one_hidden_site.up.reset()
    yield one_hidden_site
    one_hidden_site.up.sql(OPEN)


@pytest.fixture(scope="package")
def long_site() -> Iterator[Site]:
    """The app with texts at the limit of what the settings allow."""
    with running(POLL_TITLE=TITLE, OPTION_A=LONG, OPTION_B=MIXED) as site:
        yield site


# By module: while Playwright runs, this thread can't run the event loop of another test.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A Chromium. Without one the test is skipped, unless CI is set."""
    path = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if path is None and not os.environ.get("CI"):
        pytest.skip("no Chromium was found; CHROMIUM can name one")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


@pytest.fixture
def visitors(browser) -> Iterator[Visitors]:
    """Open pages. Console errors and requests to other hosts fail the test at its end."""
    visitors = Visitors(browser)
    yield visitors
    assert visitors.close() == []
