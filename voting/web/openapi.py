"""What the web roles answer, as OpenAPI 3.1: for programs, and for tests that try all of it.

Written by hand, as handlers read a request's bytes themselves: Litestar knows nothing of what they
take. A test holds each path and method against the applications'.
"""

from collections.abc import Mapping
from typing import Any

from voting import __version__
from voting.settings import Role

_Object = dict[str, Any]

_HTML, _JSON, _CSV = "text/html; charset=utf-8", "application/json", "text/csv; charset=utf-8"

_TEXT = {"type": "string"}
_TIME = {"type": ["string", "null"], "format": "date-time"}
_NUMBER = {"type": "integer", "minimum": 0}
_UNKNOWN = {"type": ["integer", "null"], "minimum": 0}  # or kept back


def describe(role: str) -> _Object | None:
    """Describe a role's public port; None for one that has none."""
    if role not in _PATHS:
        return None
    return {
        "openapi": "3.1.0",
        "info": {"title": f"voting: {role}", "version": __version__},
        "paths": {**_PATHS[Role(role)], **_STATIC},
    }


def _answer(what: str, media_type: str | None = _HTML, **headers: _Object) -> _Object:
    """Describe an answer. `headers` are always there, by their names with underscores."""
    answer: _Object = {"description": what}
    if media_type:
        answer["content"] = {media_type: {"schema": _TEXT}}
    if headers:
        answer["headers"] = {
            name.replace("_", "-"): {"required": True, "schema": schema}
            for name, schema in headers.items()
        }
    return answer


def _object(**properties: _Object) -> _Object:
    """Describe an object that has all of these and nothing more."""
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties),
        "additionalProperties": False,
    }


def _in(place: str, name: str, schema: _Object, *, required: bool = False) -> _Object:
    return {"in": place, "name": name, "schema": schema, "required": required}


_TAG = {"type": "string", "pattern": '^"[0-9a-f]{20}"$'}
_SECONDS = {"type": "string", "pattern": "^[1-9][0-9]*$"}

_IF_NONE_MATCH = _in("header", "If-None-Match", _TEXT)
_COOKIES = [
    _in("cookie", "voter", _TEXT),  # __Host-voter where VOTE_URL is https
    _in("cookie", "ballot", _TEXT),
]


def _page(what: str, *, parameters: list[_Object]) -> _Object:
    """Describe a page, or a part of one, that is not sent again where it is known."""
    answers = {
        "200": _answer(what, ETag=_TAG),
        "304": _answer("what the client has", None, ETag=_TAG),
    }
    return {"get": {"parameters": parameters, "responses": answers}}


def _refused(what: str, *, recorded: list[str], later: bool = False) -> _Object:
    answer = _answer(what, Voting_Recorded={"enum": recorded})
    if later:
        answer["headers"]["Retry-After"] = {"required": True, "schema": _SECONDS}
    return answer


_FORM = {
    "type": "object",
    "properties": {"choice": {"enum": ["a", "b"]}},
    "required": ["choice"],
}

_VOTE: _Object = {
    "parameters": [
        *_COOKIES,
        _in("header", "HX-Request", {"enum": ["true"]}),
        _in("header", "Origin", _TEXT),
        _in("header", "Sec-Fetch-Site", _TEXT),
    ],
    "requestBody": {
        "required": True,
        "content": {"application/x-www-form-urlencoded": {"schema": _FORM}},
    },
    "responses": {
        "200": _answer("recorded, where htmx asked: the ballot", Voting_Recorded={"enum": ["yes"]}),
        "303": _answer(
            "recorded: back to the page",
            None,
            Voting_Recorded={"enum": ["yes"]},
            Location={"enum": ["/"]},
        ),
        "400": _refused("no cookie of ours", recorded=["no"]),
        "403": _refused("from another site", recorded=["no"]),
        "409": _refused("the poll is closed", recorded=["no"]),
        "413": _refused("more than 4 KiB", recorded=["no"]),
        "415": _refused("not a form", recorded=["no"]),
        "422": _refused("neither choice, or both", recorded=["no"]),
        "429": _refused("more often than VOTES_PER_MINUTE", recorded=["no"], later=True),
        "503": _refused("Redis is away, or full", recorded=["no", "unknown"], later=True),
    },
}

_FIGURES = {
    "title": _TEXT,
    "options": _object(
        **{key: _object(name=_TEXT, votes=_UNKNOWN) for key in ("a", "b")},
    ),
    "votes": _UNKNOWN,
    "at": _TIME,
    "round": {"type": ["integer", "null"], "minimum": 1},
    "phase": {"enum": ["open", "counting", "final", None]},
    "hidden": {"type": "boolean"},
    "closes_at": _TIME,
    "closed_at": _TIME,
    "final_at": _TIME,
    "queue_lost_at": _TIME,
}
_STEP = _object(
    time={"type": "string", "format": "date-time"}, a=_UNKNOWN, b=_UNKNOWN, votes=_NUMBER
)
_TOTALS = _object(**_FIGURES, stale={"type": "boolean"})
_EXPORT = _object(**_FIGURES, timeline={"type": "array", "items": _STEP})


def _json(what: str, schema: _Object) -> _Object:
    return {"description": what, "content": {_JSON: {"schema": schema}}}


def _download(answer: _Object) -> _Object:
    answers = {
        "200": answer,
        "400": _answer("a round that is no number"),
        "404": _answer("a round that there is not"),
        "503": _answer("others are downloading, or the database is away", Retry_After=_SECONDS),
    }
    parameters = [_in("query", "round", {"type": "integer", "minimum": 1})]
    return {"get": {"parameters": parameters, "responses": answers}}


_STATIC = {
    "/static/{digest}/{name}": {
        "get": {
            "parameters": [_in("path", each, _TEXT, required=True) for each in ("digest", "name")],
            "responses": {
                "200": {"description": "a file of the pages", "content": {"*/*": {}}},
                "404": _answer("no such file"),
            },
        }
    }
}

_PATHS: Mapping[Role, _Object] = {
    Role.VOTE: {
        "/": {
            "get": {
                "parameters": _COOKIES,
                "responses": {"200": _answer("the page, and a cookie for who has none")},
            }
        },
        "/vote": {"post": _VOTE},
        "/receipt": _page("what became of the vote", parameters=[*_COOKIES, _IF_NONE_MATCH]),
    },
    Role.RESULT: {
        "/": _page("the page", parameters=[_IF_NONE_MATCH]),
        "/tally": _page("its part that moves", parameters=[_IF_NONE_MATCH]),
        "/screen": _page("the page for a projector", parameters=[_IF_NONE_MATCH]),
        "/timeline": _page("the totals over time, drawn", parameters=[_IF_NONE_MATCH]),
        "/api/tally": {
            "get": {
                "responses": {
                    "200": _json("the totals; null for what is kept back", _TOTALS),
                    "503": _json("they could not be read yet", _TOTALS),
                }
            }
        },
        "/export.csv": _download(_answer("totals and timeline", _CSV)),
        "/export.json": _download(_json("totals and timeline", _EXPORT)),
    },
}
