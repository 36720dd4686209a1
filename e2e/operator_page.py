"""The admin page as a browser without JavaScript uses it: by its forms."""

from typing import Self

import httpx
from support.forms import read_forms


class OperatorPage:
    """The page at `url`, which may have a token."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._client = httpx.Client(
            base_url=httpx.URL(url).copy_with(query=None),
            follow_redirects=True,
            trust_env=False,  # no proxy leads to this machine
        )

    def __enter__(self) -> Self:
        self._client.get(self._url).raise_for_status()
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    @property
    def text(self) -> str:
        return self._client.get("/").raise_for_status().text

    def offers(self, do: str) -> bool:
        """Whether the page has a button for that."""
        return any(("do", do) in form.buttons for form in read_forms(self.text))

    def press(self, do: str, **given: str) -> None:
        """Press a button of a form filled with `given`, and confirm what the page then asks."""
        page = self._send(self.text, ("do", do), {"do": do, **given})
        if 'id="confirm"' in page:
            self._send(page, (None, None), {})

    def _send(self, page: str, button: tuple[str | None, str | None], given: dict[str, str]) -> str:
        form = next(each for each in read_forms(page) if button in each.buttons)
        sent = self._client.post(form.action, data=form.fields | given)
        return sent.raise_for_status().text
