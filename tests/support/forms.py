"""The forms of a page, as a browser without JavaScript sends them."""

from dataclasses import dataclass, field
from html.parser import HTMLParser


@dataclass
class Form:
    """A form: where it is sent, its hidden fields, and the name and value of each button."""

    action: str
    fields: dict[str, str] = field(default_factory=dict)
    buttons: list[tuple[str | None, str | None]] = field(default_factory=list)


class _Reader(HTMLParser):
    def __init__(self, page: str) -> None:
        super().__init__()
        self.forms: list[Form] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        name, value = given.get("name"), given.get("value")
        if tag == "form":
            self.forms.append(Form(given.get("action") or "/"))
        elif tag == "input" and given.get("type") == "hidden" and self.forms:
            self.forms[-1].fields[name or ""] = value or ""
        elif tag == "button" and self.forms:
            self.forms[-1].buttons.append((name, value))


def read_forms(page: str) -> list[Form]:
    return _Reader(page).forms
