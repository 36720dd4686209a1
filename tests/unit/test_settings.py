import pytest

from voting.roles.maintenance import Timing
from voting.settings import (
    DatabaseSettings,
    LoadSettings,
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
    assert (settings.option_a, settings.option_b) == ("Cats", "Dogs")
    assert (settings.log_level, settings.log_format) == ("info", "json")


def test_keys_are_separated_by_commas_newest_first():
    settings = load_settings(VoteSettings, {**VOTE, "SECRET_KEYS": f"{'n' * 16}, {'o' * 16}"})
    assert [key.get_secret_value() for key in settings.secret_keys] == ["n" * 16, "o" * 16]


WORKER = {"REDIS_URL": "redis://redis", "DATABASE_URL": "postgresql://postgres"}


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
        "OPTION_A": "Same",
        "OPTION_B": "Same",
        "VOTE_URL": "nowhere",
        "LOG_LEVEL": "loud",
    }
    named = {line.partition(":")[0] for line in problems(VoteSettings, environ)}
    assert named == environ.keys() - {"OPTION_A"}


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
    "url", ["redis://h", "rediss://:secret@h:6380/1?ssl_cert_reqs=none", "unix:///run/redis.sock"]
)
def test_urls_of_redis_are_accepted(url):
    settings = load_settings(VoteSettings, {**VOTE, "REDIS_URL": url})
    assert settings.redis_url.get_secret_value() == url


def test_the_two_ports_must_differ_unless_both_are_any_free_port():
    assert problems(VoteSettings, {**VOTE, "PORT": "9090"}) == ["OPS_PORT: must differ from PORT"]
    settings = load_settings(VoteSettings, {**VOTE, "PORT": "0", "OPS_PORT": "0"})
    assert (settings.port, settings.ops_port) == (0, 0)


@pytest.mark.parametrize(
    "address", ["javascript:alert(1)", "https://", "https://a b", 'https://x/"', "//x", "https://?"]
)
def test_what_is_no_web_address_is_refused(address):
    [line] = problems(VoteSettings, {**VOTE, "RESULT_URL": address})
    assert line.startswith("RESULT_URL: ")


def test_a_load_finds_the_pages_where_they_are_unless_told():
    assert load_settings(LoadSettings, {}).vote_url == "http://localhost:8080"
    settings = load_settings(LoadSettings, {"RESULT_URL": "https://result.example.com/"})
    assert settings.result_url == "https://result.example.com"


def test_names_have_a_limit():
    environ = {**VOTE, "OPTION_A": "x" * 61, "POLL_TITLE": "x" * 201}
    assert len(problems(VoteSettings, environ)) == 2


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
