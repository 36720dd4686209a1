"""The settings of each process, read from the environment at its start."""

import errno
import os
import re
from collections.abc import Mapping
from enum import StrEnum
from ipaddress import IPv6Address
from pathlib import Path
from typing import Annotated, Literal, TypeVar
from urllib.parse import urlsplit

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
)

from voting.poll.ballot import Choice
from voting.poll.question import MAX_NAME, MAX_TITLE, Question, find_text_problems, is_same_text
from voting.poll.results import ShowResults


class SettingsError(Exception):
    """The environment has invalid settings; `problems` has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


_ESCAPES = (
    "in a user name or password % : / ? # @ [ ] are written as %25 %3A %2F %3F %23 %40 %5B %5D"
)

_POSTGRES_PARAMETERS = {
    *("host", "port", "user", "password", "passfile", "dbname", "database"),
    *("sslmode", "sslrootcert", "sslcert", "sslkey", "sslpassword", "sslcrl", "sslnegotiation"),
    "target_session_attrs",
    *("ssl_min_protocol_version", "ssl_max_protocol_version"),
}
_REDIS_PARAMETERS = {"db", "username", "password"}
_REDIS_TLS_PARAMETERS = {
    *("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname"),
}
_POSTGRES = ("postgresql", "postgres")
_SENTINEL = ("redis+sentinel", "rediss+sentinel")
_PARAMETERS = {
    **dict.fromkeys(_POSTGRES, _POSTGRES_PARAMETERS),
    "redis": _REDIS_PARAMETERS,
    "rediss": _REDIS_PARAMETERS | _REDIS_TLS_PARAMETERS,
    "unix": _REDIS_PARAMETERS,
    "redis+sentinel": set[str](),
    "rediss+sentinel": _REDIS_TLS_PARAMETERS,
}
_TLS_VERSIONS = {"TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"}
_VALUES = {
    "sslmode": {"disable", "allow", "prefer", "require", "verify-ca", "verify-full"},
    "sslnegotiation": {"postgres", "direct"},
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
    "target_session_attrs": {
        *("any", "primary", "standby", "prefer-standby", "read-write", "read-only"),
    },
    "ssl_cert_reqs": {"none", "optional", "required"},
}

_LOGIN = r"(?:[^\s/?#\[\]@%]|%[0-9A-Fa-f]{2})*@"
_HOST = r"(?:\[[0-9A-Fa-f:.]+\]|[^\s:/?#\[\]@,]*)(?::\d{1,5})?"
_REST = r"(?P<path>/[^\s?#@]*)?(?:\?(?P<query>[^\s#@]*))?"
_SERVER = re.compile(rf"(?:{_LOGIN})?(?P<hosts>{_HOST}(?:,{_HOST})*){_REST}")

_WEB_ADDRESS = re.compile(r"(https?)://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:\d{1,5})?/?")


def _server_url(*schemes: str) -> AfterValidator:
    """Check a URL as its client reads it. What is wrong is told without any part of the URL."""

    def check(value: SecretStr) -> SecretStr:
        scheme, _, rest = value.get_secret_value().partition("://")
        if scheme not in schemes:
            raise ValueError(f"must be a URL that starts with {'://, '.join(schemes)}://")
        url = _SERVER.fullmatch(rest)
        hosts = url["hosts"].split(",") if url else []
        may_be_several = scheme in (*_POSTGRES, *_SENTINEL) and all(hosts)
        if url is None or (len(hosts) > 1 and not may_be_several) or not all(map(_is_host, hosts)):
            raise ValueError(f"is not like {scheme}://user:password@host:port/name: {_ESCAPES}")
        if scheme in _SENTINEL:
            named = all(not host.startswith(":") for host in hosts) and all(hosts)
            if not named or not re.fullmatch(r"/[\w.-]+", url["path"] or ""):
                raise ValueError(f"is not like {scheme}://host:port,host:port,host:port/primary")
        elif scheme.startswith("redis") and not re.fullmatch(r"/?\d*", url["path"] or ""):
            raise ValueError(f"has no number as its database: {scheme}://host:port/0")
        _check_parameters(url["query"], _PARAMETERS[scheme])
        return value

    return AfterValidator(check)


def _is_host(host: str) -> bool:
    """Whether this is a host, maybe with a port."""
    try:
        url = urlsplit(f"//{host}")
        if host.startswith("["):
            IPv6Address(url.hostname or "")
        port = url.port
    except ValueError:
        return False
    return port != 0


def _check_parameters(query: str | None, known: set[str]) -> None:
    for parameter in query.split("&") if query is not None else ():
        name, _, value = parameter.partition("=")
        if not value:
            raise ValueError("has a parameter that is not like name=value")
        if name not in known:
            raise ValueError(f"takes no parameter {name}, but {', '.join(sorted(known))}")
        if name == "db" and not value.isdecimal():
            raise ValueError("db must be a number")
        if value not in _VALUES.get(name, {value}):
            raise ValueError(f"{name} must be one of {', '.join(sorted(_VALUES[name]))}")


def _web_address(value: str) -> str:
    """Return the address as browsers write an origin."""
    address = _WEB_ADDRESS.fullmatch(value.lower())
    if address is None or not _is_host(address[2] + (address[3] or "")):
        raise ValueError("must be an address like https://vote.example.com, without a path")
    scheme, host, port = address.groups("")
    default = {"http": ":80", "https": ":443"}[scheme]
    return f"{scheme}://{host}{'' if port == default else port}"


def _split(value: object) -> object:
    return [each.strip() for each in value.split(",")] if isinstance(value, str) else value


def _differs_from(other: str) -> AfterValidator:
    def check(value: str | int, info: ValidationInfo) -> str | int:
        if value and value == info.data.get(other):
            raise ValueError(f"must differ from {other.upper()}")
        return value

    return AfterValidator(check)


def _text(limit: int) -> AfterValidator:
    def check(value: str) -> str:
        for problem in find_text_problems(value, limit):
            raise ValueError(problem)
        return value

    return AfterValidator(check)


def _follows(value: str, info: ValidationInfo) -> str:
    """Check an option beside those before it."""
    for name, earlier in info.data.items():
        if name.startswith("option_") and (earlier is None or is_same_text(earlier, value)):
            problem = "needs" if earlier is None else "must differ from"
            raise ValueError(f"{problem} {name.upper()}")
    return value


_Option = Annotated[str, _text(MAX_NAME), AfterValidator(_follows)]
_Port = Annotated[int, Field(ge=0, le=65535)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_WebAddress = Annotated[str, AfterValidator(_web_address)]
# A key shorter than this could be guessed; 32 random bytes in hex are 64 characters.
_MIN_KEY = 16
_Key = Annotated[SecretStr, Field(min_length=_MIN_KEY)]


def _token(value: SecretStr) -> SecretStr:
    if value.get_secret_value() != "none" and len(value) < _MIN_KEY:
        raise ValueError(f"must have {_MIN_KEY} characters or more, or be the word none")
    return value


class Settings(BaseModel):
    """The settings of every command."""

    # Defaults are checked too: they may clash with what is set. A process needs few of the models.
    model_config = ConfigDict(frozen=True, validate_default=True, defer_build=True)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"


class RedisSettings(Settings):
    redis_url: Annotated[SecretStr, _server_url("redis", "rediss", "unix", *_SENTINEL)]
    # How many must have a write on disk before it is acknowledged.
    redis_replicas: Annotated[int, Field(ge=0)] = 0


class DatabaseSettings(Settings):
    database_url: Annotated[SecretStr, _server_url(*_POSTGRES)]


class ServersSettings(RedisSettings, DatabaseSettings):
    """The settings of the operator's commands."""


class QuestionSettings(Settings):
    """The question of the first round, as long as no operator has asked another."""

    poll_title: Annotated[str, _text(MAX_TITLE)] = Question().title
    option_a: _Option = Question().names[0]
    option_b: _Option = Question().names[1]
    option_c: _Option | None = None
    option_d: _Option | None = None
    option_e: _Option | None = None
    option_f: _Option | None = None
    option_g: _Option | None = None
    option_h: _Option | None = None
    option_i: _Option | None = None
    option_j: _Option | None = None
    option_k: _Option | None = None
    option_l: _Option | None = None

    @property
    def question(self) -> Question:
        names = (getattr(self, f"option_{choice}") for choice in Choice)
        return Question.of(self.poll_title, [name for name in names if name is not None])


class MigrateSettings(QuestionSettings, DatabaseSettings):
    """The question is that of rounds which a database without questions has had."""


class ShowResultsSettings(Settings):
    show_results: ShowResults = "always"


class ExportSettings(ShowResultsSettings, DatabaseSettings):
    pass


class RoleSettings(Settings):
    """The settings of every role. Port 0 means any free port, and never clashes."""

    host: str = "::"  # a container serves its pod's addresses, of either family
    port: _Port = 8080
    ops_port: Annotated[_Port, _differs_from("port")] = 9090
    # The commit that the image was built from; its build sets it.
    commit: str = "unknown"
    # OpenTelemetry's SDK reads these itself; here they only enable it.
    otel_exporter_otlp_endpoint: str | None = None
    otel_exporter_otlp_traces_endpoint: str | None = None

    @property
    def tracing(self) -> bool:
        """Whether to send spans: a collector is configured."""
        return bool(self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint)


LanguageCode = Literal["en", "de", "fr", "es", "pt", "ja", "ar"]


class PageSettings(RoleSettings):
    # Of every page; without it, the best that each client accepts. Not LANGUAGE, which desktops set
    # for gettext's programs, and which `voting up` would take over.
    page_language: LanguageCode | None = None
    vote_url: _WebAddress | None = None
    result_url: _WebAddress | None = None

    @property
    def secure(self) -> bool:
        """Whether browsers use TLS, which the Ingress terminates, by the page's own URL."""
        return False


class LoadSettings(Settings):
    """The pages that `voting load` uses; the defaults are those of `voting up`."""

    vote_url: _WebAddress = "http://localhost:8080"
    result_url: _WebAddress = "http://localhost:8081"


class VoteSettings(PageSettings, RedisSettings):
    secret_keys: Annotated[tuple[_Key, ...], BeforeValidator(_split), Field(min_length=1)]
    # For each voter; 0 means no limit.
    votes_per_minute: Annotated[int, Field(ge=0)] = 20

    @property
    def secure(self) -> bool:
        return (self.vote_url or "").startswith("https://")

    @property
    def public_port(self) -> int:
        """The port that browsers know, of the page's own address."""
        if self.vote_url is None:
            return self.port
        return urlsplit(self.vote_url).port or (443 if self.secure else 80)


class ResultSettings(PageSettings, ExportSettings):
    # Origins of the pages that may embed the result.
    embed_in: Annotated[tuple[_WebAddress, ...], BeforeValidator(_split)] = ()

    @property
    def secure(self) -> bool:
        return (self.result_url or "").startswith("https://")


class AdminSettings(PageSettings, ServersSettings, ShowResultsSettings):
    port: _Port = 8082  # on loopback, whatever `host` is
    # In the address that opens the page; `none` where only those can connect who may lead a vote.
    admin_token: Annotated[SecretStr, AfterValidator(_token)]

    @property
    def token(self) -> str | None:
        value = self.admin_token.get_secret_value()
        return None if value == "none" else value


class WorkerSettings(RoleSettings, QuestionSettings, RedisSettings, DatabaseSettings):
    # For tests only, and not in the documentation: seconds.
    claim_min_idle: _Seconds = 15.0
    maintenance_interval: _Seconds = 5.0


class Role(StrEnum):
    VOTE = "vote"
    RESULT = "result"
    WORKER = "worker"
    ADMIN = "admin"


ROLE_SETTINGS: Mapping[Role, type[RoleSettings]] = {
    Role.VOTE: VoteSettings,
    Role.RESULT: ResultSettings,
    Role.WORKER: WorkerSettings,
    Role.ADMIN: AdminSettings,
}


_Settings = TypeVar("_Settings", bound=Settings)


def load_settings(model: type[_Settings], environ: Mapping[str, str]) -> _Settings:
    """Read the variables of `model`, without white space at the ends; an empty one is not set.

    Raises SettingsError with a line for each problem. No line contains a value, as it may be
    secret.
    """
    given = {name: environ.get(name.upper(), "").strip() for name in model.model_fields}
    try:
        return model.model_validate({name: value for name, value in given.items() if value})
    except ValidationError as error:
        problems = []
        for each in error.errors():
            message = "is required" if each["type"] == "missing" else each["msg"]
            name = str(each["loc"][0]).upper()
            problems.append(f"{name}: {message.removeprefix('Value error, ')}")
        raise SettingsError(problems) from None


def load_role(environ: Mapping[str, str]) -> Role:
    """Read ROLE. Raises SettingsError, which also lists the problems that all roles have."""
    if environ.get("ROLE") in list(Role):
        return Role(environ["ROLE"])
    problems = [f"ROLE: must be one of {', '.join(Role)}"]
    try:
        load_settings(RoleSettings, environ)
    except SettingsError as error:
        problems += error.problems
    raise SettingsError(problems)


def bind_problem(host: str, port: int, error: OSError | UnicodeError) -> str:
    """Say which setting is wrong when a process can't listen on HOST and a port."""
    reason = error.strerror if isinstance(error, OSError) else error
    if isinstance(error, OSError) and error.errno in {errno.EADDRINUSE, errno.EACCES}:
        return f"port {port} is not available: {reason}"
    return (
        f"HOST is {host!r}, where this machine can't listen: {reason}\n"
        "  Unset HOST, or set it to an address of this machine"
    )


def default_data_dir() -> Path:
    """Return the directory in which `voting up` keeps its data by default.

    Raises OSError if the user has no home directory.
    """
    if os.geteuid() == 0:
        return Path("/var/lib/voting")  # Postgres runs as another user, who can't enter /root
    if home := os.environ.get("XDG_DATA_HOME"):
        return Path(home) / "voting"
    try:
        return Path.home() / ".local" / "share" / "voting"
    except RuntimeError:
        raise OSError("this user has no home directory: set HOME, or use --data") from None
