"""Requests that the OpenAPI documents allow, and requests that they do not allow."""

import asyncio
import urllib.parse
from collections import Counter
from collections.abc import Iterator

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from schemathesis import Case, GenerationMode, Response
from schemathesis.specs.openapi import checks
from support.app import RoleProcess
from support.database import fetch

from voting.web.cookies import VoterCookies, cookie_name

from .test_roles import KEY

OPERATIONS = {
    "vote": ["GET /", "POST /vote", "GET /static/{digest}/{name}"],
    "result": [
        *("GET /", "GET /tally", "GET /screen", "GET /timeline", "GET /api/tally"),
        *("GET /rounds", "GET /rounds/{number}"),
        *("GET /export.csv", "GET /export.json", "GET /static/{digest}/{name}"),
    ],
}

# The others accept any request.
REFUSING = {"POST /vote", "GET /export.csv", "GET /export.json"}

# The others have no parameter but headers, which need fewer examples.
PARAMETERS = {*REFUSING, "GET /rounds/{number}", "GET /static/{digest}/{name}"}

# A page is served without a cookie, and with invalid headers. `check` checks the bodies of votes.
EXCLUDED = [
    checks.negative_data_rejection,
    checks.positive_data_acceptance,
    checks.missing_required_header,
]

SECURITY_HEADERS = {
    *("content-security-policy", "x-content-type-options", "referrer-policy"),
    *("cross-origin-opener-policy", "cross-origin-resource-policy", "permissions-policy"),
}


@pytest.fixture(scope="module")
def roles(servers) -> Iterator[dict[str, RoleProcess]]:
    """All roles, with a database of their own."""
    name = "test_openapi"
    servers.make_database(name)
    urls = {
        role: {"DATABASE_URL": servers.database_url(name, f"voting_{role}")}
        for role in ("worker", "result")
    }
    urls["worker"]["REDIS_URL"] = servers.redis_url("worker")
    urls["vote"] = {"REDIS_URL": servers.redis_url("vote"), "SECRET_KEYS": KEY}
    roles = {role: RoleProcess(role, **environ) for role, environ in urls.items()}
    for role in roles.values():
        role.ready()
    yield roles
    for role in roles.values():
        role.close()
    servers.sql(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture(scope="module")
def poll(servers) -> str:
    """The identity of the poll, for which voters' cookies are signed."""
    url = servers.database_url("test_openapi")
    [[poll]] = asyncio.run(fetch(url, "SELECT database_id::text FROM poll"))
    return poll


def check(case: Case, response: Response) -> None:
    """Check a response by the document, and what the document does not say of every response."""
    case.validate_response(response, excluded_checks=EXCLUDED)
    headers = {name: ", ".join(values) for name, values in response.headers.items()}
    assert headers.keys() >= SECURITY_HEADERS
    assert "server" not in headers
    for word in ("Traceback", 'File "', "Error:"):
        assert word not in response.text
    if "max-age" in headers.get("cache-control", ""):
        assert "set-cookie" not in headers
    recorded = headers.get("voting-recorded") == "yes"
    assert recorded == (case.method == "POST" and response.status_code in {200, 303})
    if recorded:
        sent = urllib.parse.parse_qs(response.request.body)
        assert (sent["round"], sent["choice"]) in ((["1"], ["a"]), (["1"], ["b"]))


@pytest.mark.parametrize(
    ("role", "operation", "mode"),
    [
        (role, operation, mode)
        for role, operations in OPERATIONS.items()
        for operation in operations
        for mode in GenerationMode
        if mode is GenerationMode.POSITIVE or operation in REFUSING
    ],
)
def test_every_response_conforms_to_the_document(
    roles, poll, role, operation, mode, pytestconfig, record_property
):
    examples = pytestconfig.getoption("examples")
    schema = schemathesis.openapi.from_dict(roles[role].ask("/openapi.json").json())
    method, path = operation.split()
    cookies = VoterCookies([KEY])
    voter = cookie_name("voter", secure=False, port=roles["vote"].port)
    statuses: Counter[int] = Counter()
    with requests.Session() as session:

        @settings(
            max_examples=examples if operation in PARAMETERS else examples // 10,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=schema[path][method].as_strategy(mode), known=st.booleans(), now=st.booleans())
        def send(case: Case, *, known: bool, now: bool) -> None:
            if now and operation == "POST /vote" and mode is GenerationMode.POSITIVE:
                case.body["round"] = 1
            if known:
                case.cookies = {**dict(case.cookies or {}), voter: cookies.mint(poll)}
            response = case.call(
                base_url=f"http://127.0.0.1:{roles[role].port}",
                session=session,
                allow_redirects=False,
            )
            session.cookies.clear()
            statuses[response.status_code] += 1
            check(case, response)

        send()
    record_property("responses", dict(statuses))
    assert "Traceback" not in roles[role].output
