"""The settings of each process, read from the environment at its start."""

import os
import re
from collections.abc import Mapping
from enum import StrEnum
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
    StringConstraints,
    ValidationError,
    ValidationInfo,
)

from voting.poll.results import Question, ShowResults


class SettingsError(Exception):
    """The environment has invalid settings; `problems` has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def _url(*schemes: str) -> AfterValidator:
    def check(value: SecretStr) -> SecretStr:
        url = value.get_secret_value()
        if not url.startswith(tuple(f"{scheme}://" for scheme in schemes)) or re.search(r"\s", url):
            raise ValueError(f"must be a URL that starts with {' or '.join(schemes)}://")
        return value

    return AfterValidator(check)


def _web_address(value: str) -> str:
    if not re.fullmatch(r"https?://[^\s/?#\"'<>]+(/[^\s\"'<>]*)?", value):
        raise ValueError("must be an address that starts with http:// or https://")
    return value.rstrip("/")


def _keys(value: object) -> object:
    return [key.strip() for key in value.split(",")] if isinstance(value, str) else value


def _differs_from(other: str) -> AfterValidator:
    def check(value: str | int, info: ValidationInfo) -> str | int:
        if value and value == info.data.get(other):
            raise ValueError(f"must differ from {other.upper()}")
        return value

    return AfterValidator(check)


_Port = Annotated[int, Field(ge=0, le=65535)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Text = StringConstraints(strip_whitespace=True, min_length=1)
_WebAddress = Annotated[str, AfterValidator(_web_address)]
# A key shorter than this could be guessed; 32 random bytes in hex are 64 characters.
_Key = Annotated[SecretStr, Field(min_length=16)]


class Settings(BaseModel):
    """The settings of every command."""

    # Defaults are checked too: they may clash with what is set. A process needs few of the models.
    model_config = ConfigDict(frozen=True, validate_default=True, defer_build=True)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"


class RedisSettings(Settings):
    redis_url: Annotated[SecretStr, _url("redis", "rediss", "unix")]


class DatabaseSettings(Settings):
    database_url: Annotated[SecretStr, _url("postgresql", "postgres")]


class ServersSettings(RedisSettings, DatabaseSettings):
    """The settings of the operator's commands."""


class PollSettings(Settings):
    poll_title: Annotated[str, _Text, Field(max_length=200)] = "Cats or Dogs?"
    option_a: Annotated[str, _Text, Field(max_length=60)] = "Cats"
    option_b: Annotated[str, _Text, Field(max_length=60), _differs_from("option_a")] = "Dogs"

    @property
    def question(self) -> Question:
        return Question(self.poll_title, self.option_a, self.option_b)


class ShowResultsSettings(Settings):
    show_results: ShowResults = "always"


class ExportSettings(PollSettings, ShowResultsSettings, DatabaseSettings):
    pass


class RoleSettings(Settings):
    """The settings of every role. Port 0 means any free port, and never clashes."""

    host: str = "0.0.0.0"  # noqa: S104 - a container serves its pod's address
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


class PageSettings(RoleSettings, PollSettings):
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
    secret_keys: Annotated[tuple[_Key, ...], BeforeValidator(_keys), Field(min_length=1)]
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
    @property
    def secure(self) -> bool:
        return (self.result_url or "").startswith("https://")


class WorkerSettings(RoleSettings, RedisSettings, DatabaseSettings):
    # For tests only, and not in the documentation: seconds.
    claim_min_idle: _Seconds = 15.0
    maintenance_interval: _Seconds = 5.0


class Role(StrEnum):
    VOTE = "vote"
    RESULT = "result"
    WORKER = "worker"


ROLE_SETTINGS: Mapping[Role, type[RoleSettings]] = {
    Role.VOTE: VoteSettings,
    Role.RESULT: ResultSettings,
    Role.WORKER: WorkerSettings,
}


_Settings = TypeVar("_Settings", bound=Settings)


def load_settings(model: type[_Settings], environ: Mapping[str, str]) -> _Settings:
    """Read the variables of `model`; an empty variable counts as not set.

    Raises SettingsError with a line for each problem. No line contains a value, as it may be
    secret.
    """
    given = {name: environ.get(name.upper()) for name in model.model_fields}
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


def default_data_dir() -> Path:
    """Return the directory in which `voting up` keeps its data by default."""
    if os.geteuid() == 0:
        return Path("/var/lib/voting")  # Postgres runs as another user, who can't enter /root
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "voting"
