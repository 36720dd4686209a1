"""The pictures of the README: run by name, by `nox -s screenshots`, into `docs/images/`."""

import re
import subprocess
import sys
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect
from support.environ import ENVIRON

from voting.poll.question import Question

from .conftest import Site, Visitors, running
from .pages import PHONE, choose, expect_receipt

IMAGES = Path(__file__).parent.parent.parent / "docs/images"
LAPTOP = {"width": 1100, "height": 840}
PROJECTOR = {"width": 1280, "height": 720}

QUESTION = Question("What shall we learn next?", ("Kubernetes", "Postgres", "Redis"))
NEXT = [
    Question("How was the last talk?", ("Great", "Good", "Too long")),
    Question("When do we meet again?", ("In a week", "In a month")),
]

FRAMES = 14
FRAME_TIME = 450  # milliseconds
VOTE_AT = 4  # the frame


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    """The app as a room knows it: with addresses of its own."""
    addresses = {"VOTE_URL": "http://vote.example.com", "RESULT_URL": "http://result.example.com"}
    with running(VOTES_PER_MINUTE="0", **addresses) as site:
        site.ask(QUESTION)
        # Half a minute, in which the mood changes.
        for votes, options in ((90, "a,b"), (120, "a,c"), (100, "a,b,c"), (60, "a")):
            load(site, f"--votes={votes}", f"--options={options}", "--rate=14").wait()
        yield site


def load(site: Site, *options: str) -> subprocess.Popen[bytes]:
    pages = (f"--vote-url={site.vote}", f"--result-url={site.result}")
    command = [sys.executable, "-P", "-m", "voting", "load", *pages, *options]
    return subprocess.Popen(command, env=ENVIRON, stdout=subprocess.DEVNULL)


def save(name: str, *frames: Image.Image) -> None:
    """Save a picture, or an animation, with few colours."""
    IMAGES.mkdir(exist_ok=True)
    palette = frames[-1].quantize(96, dither=Image.Dither.NONE)
    few = [each.quantize(palette=palette, dither=Image.Dither.NONE) for each in frames]
    options = {"save_all": True, "append_images": few[1:], "duration": FRAME_TIME, "loop": 0}
    few[0].save(IMAGES / name, optimize=True, **(options if len(frames) > 1 else {}))


def shot(page: Page) -> Image.Image:
    return Image.open(BytesIO(page.screenshot())).convert("RGB")


def side_by_side(*images: Image.Image) -> Image.Image:
    height = min(image.height for image in images)
    small = [image.resize((image.width * height // image.height, height)) for image in images]
    whole = Image.new("RGB", (sum(image.width for image in small), height))
    left = 0
    for image in small:
        whole.paste(image, (left, 0))
        left += image.width
    return whole


def test_a_vote_moves(site: Site, visitors: Visitors) -> None:
    vote = visitors.open(site.vote, viewport=PHONE)
    result = visitors.open(site.result, viewport=LAPTOP)
    crowd = load(site, "--votes=150", "--rate=22", "--options=b,c")
    frames = []
    for number in range(FRAMES):
        if number == VOTE_AT:
            choose(vote, "b")
        frames.append(side_by_side(shot(vote), shot(result)))
        result.wait_for_timeout(FRAME_TIME)
    crowd.wait()
    expect_receipt(vote, "Postgres", "counted")
    frames.append(side_by_side(shot(vote), shot(result)))
    for frame in frames:
        frame.thumbnail((720, 720))
    save("vote.gif", *frames, frames[-1], frames[-1])
    save("vote.png", shot(vote))
    save("result.png", shot(result))


def test_the_screen_and_the_admin_page(site: Site, visitors: Visitors) -> None:
    save("screen.png", shot(visitors.open(f"{site.result}/screen", viewport=PROJECTOR)))
    for question in NEXT:
        words = ["questions", "add", question.title, *question.names]
        command = [sys.executable, "-P", "-m", "voting", *words, "--data", str(site.up.data)]
        subprocess.run(command, env=ENVIRON, check=True)
    crowd = load(site, "--votes=400", "--rate=22")
    admin = visitors.open(site.up.admin, viewport=LAPTOP)
    rate = admin.locator(".numbers div", has_text="votes a second").locator("dd")
    expect(rate).to_have_text(re.compile(r"^\d\d$"))
    save("admin.png", shot(admin))
    crowd.wait()
