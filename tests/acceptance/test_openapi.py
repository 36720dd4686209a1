"""The pages as OpenAPI describes them, tried with what it allows and with what it does not."""

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

from voting.web.cookies import VoterCookies

from .test_roles import KEY

OPERATIONS = {
    "vote": ["GET /", "POST /vote", "GET /receipt", "GET /static/{digest}/{name}"],
    "result": [
        *("GET /", "GET /tally", "GET /screen", "GET /timeline", "GET /api/tally"),
        *("GET /export.csv", "GET /export.json", "GET /static/{digest}/{name}"),
    ],
}

# Elsewhere, nothing that HTTP can carry is against the description.
REFUSING = {"POST /vote", "GET /export.csv", "GET /export.json"}

# Who has no cookie may ask for a page, and whatever else is wrong with a header is overlooked: a
# body that makes no sense is another matter, and looked at below.
OVERLOOKED = [
    checks.negative_data_rejection,
    checks.positive_data_acceptance,
    checks.missing_required_header,
]

ALWAYS = {
    *("content-security-policy", "x-content-type-options", "referrer-policy"),
    *("cross-origin-opener-policy", "cross-origin-resource-policy", "permissions-policy"),
}


@pytest.fixture(scope="module")
def roles(servers) -> Iterator[dict[str, RoleProcess]]:
    """All roles as they run, on a database and a queue of their own."""
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


def look(case: Case, answer: Response) -> None:
    """Look at what holds for every answer, and at what no description says."""
    case.validate_response(answer, excluded_checks=OVERLOOKED)
    headers = {name: ", ".join(values) for name, values in answer.headers.items()}
    assert headers.keys() >= ALWAYS
    assert "server" not in headers
    for word in ("Traceback", 'File "', "Error:"):
        assert word not in answer.text
    if "max-age" in headers.get("cache-control", ""):
        assert "set-cookie" not in headers
    recorded = headers.get("voting-recorded") == "yes"
    assert recorded == (case.method == "POST" and answer.status_code in {200, 303})
    if recorded:
        sent = urllib.parse.parse_qs(answer.request.body)
        assert sent["choice"] in (["a"], ["b"])


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
    roles, role, operation, mode, pytestconfig, record_property
):
    schema = schemathesis.openapi.from_dict(roles[role].ask("/openapi.json").json())
    method, path = operation.split()
    cookies = VoterCookies([KEY])
    statuses: Counter[int] = Counter()
    with requests.Session() as session:

        @settings(
            max_examples=pytestconfig.getoption("examples"),
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=schema[path][method].as_strategy(mode), known=st.booleans())
        def ask(case: Case, *, known: bool) -> None:
            if known:
                case.cookies = {**dict(case.cookies or {}), "voter": cookies.mint()}
            answer = case.call(
                base_url=f"http://127.0.0.1:{roles[role].port}",
                session=session,
                allow_redirects=False,
            )
            session.cookies.clear()
            statuses[answer.status_code] += 1
            look(case, answer)

        ask()
    record_property("answers", dict(statuses))
    assert "Traceback" not in roles[role].output
