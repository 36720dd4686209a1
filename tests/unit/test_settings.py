import inspect
import re
from urllib.parse import urlencode

import pytest
from asyncpg.connect_utils import _parse_connect_dsn_and_args

from voting.poll.question import CHOICES, Question
from voting.queue.client import connect
from voting.roles.maintenance import Timing
from voting.settings import (
    _POSTGRES_PARAMETERS,
    _REDIS_TLS_PARAMETERS,
    AdminSettings,
    DatabaseSettings,
    ExportSettings,
    LoadSettings,
    MigrateSettings,
    QuestionSettings,
    ResultSettings,
    Role,
    SettingsError,
    VoteSettings,
    WorkerSettings,
    load_role,
    load_settings,
)

KEY = "k" * 32
VOTE = {"REDIS_URL": "redis://redis:6379/0", "SECRET_KEYS": KEY}


def problems(model, environ):
    with pytest.raises(SettingsError) as caught:
        load_settings(model, environ)
    return caught.value.problems


def test_defaults_are_those_of_the_contract():
    settings = load_settings(VoteSettings, VOTE)
    assert (settings.port, settings.ops_port) == (8080, 9090)
    assert (settings.log_level, settings.log_format) == ("info", "json")


def test_keys_are_separated_by_commas_newest_first():
    settings = load_settings(VoteSettings, {**VOTE, "SECRET_KEYS": f"{'n' * 16}, {'o' * 16}"})
    assert [key.get_secret_value() for key in settings.secret_keys] == ["n" * 16, "o" * 16]


WORKER = {"REDIS_URL": "redis://redis", "DATABASE_URL": "postgresql://postgres"}


def test_the_admin_page_has_a_port_of_its_own_and_needs_a_token():
    assert problems(AdminSettings, WORKER) == ["ADMIN_TOKEN: is required"]
    settings = load_settings(AdminSettings, {**WORKER, "ADMIN_TOKEN": "0123456789abcdef"})
    assert (settings.port, settings.token) == (8082, "0123456789abcdef")
    assert load_settings(AdminSettings, {**WORKER, "ADMIN_TOKEN": "none"}).token is None


@pytest.mark.parametrize("token", ["short", "None", "0123456789abcde"])
def test_a_token_that_could_be_guessed_is_refused_without_being_told(token):
    [line] = problems(AdminSettings, {**WORKER, "ADMIN_TOKEN": token})
    assert line == "ADMIN_TOKEN: must have 16 characters or more, or be the word none"


def test_a_worker_times_its_maintenance_as_its_code_does_by_default():
    settings = load_settings(WorkerSettings, WORKER)
    assert Timing(settings.claim_min_idle, settings.maintenance_interval) == Timing()


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf", "soon"])
@pytest.mark.parametrize("name", ["CLAIM_MIN_IDLE", "MAINTENANCE_INTERVAL"])
def test_times_must_be_positive_numbers(name, seconds):
    [line] = problems(WorkerSettings, {**WORKER, name: seconds})
    assert line.startswith(f"{name}: ")


def test_every_problem_is_in_one_message():
    environ = {
        "PORT": "70000",
        "OPS_PORT": "x",
        "REDIS_URL": "http://redis",
        "SECRET_KEYS": "short",
        "VOTE_URL": "nowhere",
        "LOG_LEVEL": "loud",
    }
    named = {line.partition(":")[0] for line in problems(VoteSettings, environ)}
    assert named == environ.keys()


def test_a_problem_never_shows_the_value():
    secret = "redis-password"
    lines = problems(WorkerSettings, {"REDIS_URL": f"https://:{secret}@x", "DATABASE_URL": secret})
    assert len(lines) == 2
    assert secret not in "\n".join(lines)


def test_a_secret_is_not_shown_when_settings_are():
    assert KEY not in repr(load_settings(VoteSettings, VOTE))


@pytest.mark.parametrize("value", ["", None])
def test_an_empty_variable_counts_as_missing(value):
    environ = {} if value is None else {"DATABASE_URL": value}
    assert problems(DatabaseSettings, environ) == ["DATABASE_URL: is required"]


@pytest.mark.parametrize(
    "url",
    [
        "redis://h",
        "redis://user:p%40ss:w0rd!@[::1]:6379/1",
        "rediss://:secret@h:6380/1?ssl_cert_reqs=none&ssl_ca_certs=/a/ca.crt",
        "unix:///run/redis.sock?db=1",
        "unix://user:secret@/run/redis.sock",
    ],
)
def test_urls_of_redis_are_accepted(url):
    settings = load_settings(VoteSettings, {**VOTE, "REDIS_URL": f" {url}\n"})
    assert settings.redis_url.get_secret_value() == url
    connection = connect(url).connection_pool.make_connection()
    assert connection.password in {None, "secret", "p@ss:w0rd!"}


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://h",
        "postgres://user:p%40s%2fs@one:1,two:2,[::1]:3/votes?sslmode=verify-full",
        "postgresql:///votes?host=/run/postgresql&port=5432",
        "postgresql://me@%2Frun%2Fpostgresql/votes",
    ],
)
def test_urls_of_postgres_are_accepted(url):
    settings = load_settings(DatabaseSettings, {"DATABASE_URL": f"{url}\n"})
    assert settings.database_url.get_secret_value() == url


def test_every_parameter_that_is_accepted_is_one_of_the_client():
    # Otherwise asyncpg would take it for a setting of the server, and redis-py fail to connect.
    given = dict.fromkeys(_POSTGRES_PARAMETERS, "1") | {"sslmode": "disable"}
    given |= {"target_session_attrs": "any", "sslnegotiation": "postgres"}
    given |= dict.fromkeys(["ssl_min_protocol_version", "ssl_max_protocol_version"], "TLSv1.3")
    dsn = f"postgresql://me@h/x?{urlencode(given)}"
    given = dict.fromkeys(inspect.signature(_parse_connect_dsn_and_args).parameters) | {"dsn": dsn}
    _, parameters = _parse_connect_dsn_and_args(**given)
    assert not parameters.server_settings
    for name in sorted(_REDIS_TLS_PARAMETERS):
        connect(f"rediss://h?{name}=none").connection_pool.make_connection()


PASSWORD = [f"horse{character}staple" for character in "#/?@[]% "]


@pytest.mark.parametrize("password", PASSWORD)
@pytest.mark.parametrize("name", ["DATABASE_URL", "REDIS_URL"])
def test_a_password_with_a_character_of_urls_is_refused_with_how_to_write_it(name, password):
    scheme = WORKER[name].partition(":")[0]
    environ = {**WORKER, name: f"{scheme}://user:{password}@host:5432/0"}
    [line] = problems(WorkerSettings, environ)
    assert line.startswith(f"{name}: is not like {scheme}://user:password@host:port/name")
    assert "%23 %40" in line
    assert not any(piece in line for piece in re.split(r"\W", password))


@pytest.mark.parametrize(
    ("name", "url", "words"),
    [
        ("DATABASE_URL", "postgresql+asyncpg://h/x", "starts with postgresql://, postgres://"),
        ("DATABASE_URL", "host=h dbname=x", "starts with postgresql://, postgres://"),
        ("DATABASE_URL", "postgresql://h/x?connect_timeout=5", "no parameter connect_timeout, but"),
        ("DATABASE_URL", "postgresql://h/x?sslmode=on", "sslmode must be one of allow, disable"),
        ("DATABASE_URL", "postgresql://h/x?target_session_attrs=master", "must be one of any"),
        *(
            ("DATABASE_URL", f"postgresql://h/x?{each}", "name=value")
            for each in ("sslmode", "sslmode=require&")
        ),
        *(
            ("DATABASE_URL", f"postgresql://{each}/x", "is not like")
            for each in ("h:port", "h:99999", "h:0", "h1,", "h1:1,,h2", "[::1:]", "[1.2]")
        ),
        *(
            ("REDIS_URL", f"redis://{each}/0", "is not like")
            for each in ("h:99999", "a,b:6379", "[::1:]")
        ),
        ("REDIS_URL", "redis://h?db=x", "db must be a number"),
        ("REDIS_URL", "sentinel://h/x", "starts with redis://, rediss://, unix://"),
        ("REDIS_URL", "redis+sentinel://a,b,c", "is not like redis+sentinel://host:port,"),
        ("REDIS_URL", "redis+sentinel://a,,c/voting", "is not like redis+sentinel://user"),
        ("REDIS_URL", "redis+sentinel://:26379/voting", "is not like redis+sentinel://host"),
        ("REDIS_URL", "redis+sentinel://a/voting?db=1", "takes no parameter db"),
        ("REDIS_URL", "redis://h/votes", "has no number as its database"),
        ("REDIS_URL", "rediss://h?ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs must be one of none"),
        ("REDIS_URL", "redis://h?ssl_cert_reqs=none", "takes no parameter ssl_cert_reqs"),
        ("REDIS_URL", "redis://h?decode_responses=true", "takes no parameter decode_responses"),
    ],
)
def test_a_url_that_its_client_would_misread_is_refused(name, url, words):
    [line] = problems(WorkerSettings, {**WORKER, name: url})
    assert words in line


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("HTTPS://Vote.Example.com:443/", "https://vote.example.com"),
        ("http://h:80", "http://h"),
        ("http://[::1]:8080 ", "http://[::1]:8080"),
        ("https://h:8443", "https://h:8443"),
    ],
)
def test_the_address_of_a_page_is_written_as_an_origin(given, address):
    assert load_settings(VoteSettings, {**VOTE, "VOTE_URL": given}).vote_url == address


@pytest.mark.parametrize(
    ("environ", "port"),
    [
        ({"PORT": "8088"}, 8088),
        ({"VOTE_URL": "http://h"}, 80),
        ({"VOTE_URL": "https://h"}, 443),
        ({"VOTE_URL": "http://h:8080", "PORT": "1"}, 8080),
    ],
)
def test_the_port_that_browsers_know_is_that_of_the_address(environ, port):
    assert load_settings(VoteSettings, {**VOTE, **environ}).public_port == port


def test_the_two_ports_must_differ_unless_both_are_any_free_port():
    assert problems(VoteSettings, {**VOTE, "PORT": "9090"}) == ["OPS_PORT: must differ from PORT"]
    settings = load_settings(VoteSettings, {**VOTE, "PORT": "0", "OPS_PORT": "0"})
    assert (settings.port, settings.ops_port) == (0, 0)


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)",
        "https://",
        "https://a b",
        'https://x/"',
        "//x",
        "https://?",
        "https://x/vote",
        "https://me@x",
        "https://x:port",
        "https://x:99999",
        "https://[::::]",
        "https://wählen.example",
    ],
)
def test_what_is_no_web_address_is_refused(address):
    [line] = problems(VoteSettings, {**VOTE, "RESULT_URL": address})
    assert line.startswith("RESULT_URL: ")


def test_a_load_finds_the_pages_where_they_are_unless_told():
    assert load_settings(LoadSettings, {}).vote_url == "http://localhost:8080"
    settings = load_settings(LoadSettings, {"RESULT_URL": "https://result.example.com/"})
    assert settings.result_url == "https://result.example.com"


def options(number):
    """Return the variables of that many options."""
    return {f"OPTION_{key.upper()}": f"Option {key}" for key in CHOICES[:number]}


def test_the_question_is_that_of_the_model_unless_told():
    assert load_settings(QuestionSettings, {}).question == Question()


@pytest.mark.parametrize("number", [2, 3, 12])
def test_the_question_has_as_many_options_as_there_are_variables(number):
    environ = {"POLL_TITLE": " Which? ", **options(number)}
    for model, more in ((MigrateSettings, WORKER), (WorkerSettings, WORKER)):
        question = load_settings(model, {**more, **environ}).question
        assert question == Question("Which?", tuple(options(number).values()))
        assert question.find_problems() == []


def test_two_options_have_a_name_without_variables():
    question = load_settings(QuestionSettings, {"OPTION_C": "Birds"}).question
    assert question.names == ("Cats", "Dogs", "Birds")


@pytest.mark.parametrize("gap", CHOICES[2:11])
def test_an_option_needs_the_one_before_it(gap):
    name = f"OPTION_{gap.upper()}"
    environ = {key: value for key, value in options(12).items() if key != name}
    # An empty variable counts as missing.
    for given in (environ, {**environ, name: ""}, {**environ, name: " "}):
        lines = problems(QuestionSettings, given)
        assert [each.partition(":")[0] for each in lines] == [
            f"OPTION_{key.upper()}" for key in CHOICES if key > gap
        ]
        assert all(each.endswith(f"needs {name}") for each in lines)


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"OPTION_B": "Cats"}, "OPTION_B: must differ from OPTION_A"),
        ({"OPTION_A": "Dogs"}, "OPTION_B: must differ from OPTION_A"),
        ({"OPTION_C": "Dogs"}, "OPTION_C: must differ from OPTION_B"),
        # The same letter, composed and decomposed.
        (
            {"OPTION_B": "Caf\u00e9", "OPTION_C": "Cafe\u0301"},
            "OPTION_C: must differ from OPTION_B",
        ),
        ({**options(12), "OPTION_L": "Option e"}, "OPTION_L: must differ from OPTION_E"),
        ({"OPTION_B": "x\ty"}, "OPTION_B: has a control character"),
        ({"POLL_TITLE": "x\ny"}, "POLL_TITLE: has a control character"),
        ({"POLL_TITLE": "x" * 201}, "POLL_TITLE: has 201 characters, 200 at most are possible"),
        *(
            ({**options(12), name: "x" * 61}, f"{name}: has 61 characters, 60 at most are possible")
            for name in options(12)
        ),
    ],
)
def test_what_is_no_question_is_refused(environ, line):
    assert line in problems(QuestionSettings, environ)


def test_a_text_may_have_as_many_characters_as_the_model_allows():
    environ = {"POLL_TITLE": "🐈" * 200, "OPTION_A": "🐈" * 60, "OPTION_B": "قطط"}
    question = load_settings(QuestionSettings, environ).question
    assert question == Question("🐈" * 200, ("🐈" * 60, "قطط"))


@pytest.mark.parametrize(
    ("model", "environ"),
    [(VoteSettings, VOTE), (ResultSettings, WORKER), (ExportSettings, WORKER)],
)
def test_only_workers_and_the_migration_read_the_question(model, environ):
    wrong = {"POLL_TITLE": "x" * 201, "OPTION_A": "Same", "OPTION_B": "Same"}
    assert load_settings(model, {**environ, **wrong}) == load_settings(model, environ)


@pytest.mark.parametrize("role", list(Role))
def test_each_role_is_known_by_its_name(role):
    assert load_role({"ROLE": role.value}) is role


@pytest.mark.parametrize("environ", [{}, {"ROLE": "Vote"}, {"ROLE": "all"}])
def test_an_unknown_role_is_refused_with_all_else_that_is_wrong(environ):
    with pytest.raises(SettingsError) as caught:
        load_role({**environ, "PORT": "x"})
    assert [line.partition(":")[0] for line in caught.value.problems] == ["ROLE", "PORT"]


def test_results_are_shown_always_or_after_the_close():
    environ = {"DATABASE_URL": "postgresql://h"}
    assert load_settings(ResultSettings, environ).show_results == "always"
    hidden = load_settings(ResultSettings, {**environ, "SHOW_RESULTS": "after_close"})
    assert hidden.show_results == "after_close"
    [line] = problems(ResultSettings, {**environ, "SHOW_RESULTS": "never"})
    assert line.startswith("SHOW_RESULTS: ")
