"""The settings of each process, read from the environment at its start."""

import os
import re
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal, TypeVar

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
    field_validator,
)

from voting.poll.results import Question, ShowResults


class SettingsError(Exception):
    """The environment has invalid settings; `problems` has a line for each."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


class Role(StrEnum):
    VOTE = "vote"
    RESULT = "result"
    WORKER = "worker"


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


_Port = Annotated[int, Field(ge=0, le=65535)]
_Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Text = StringConstraints(strip_whitespace=True, min_length=1)
_WebAddress = Annotated[str, AfterValidator(_web_address)]
# A key shorter than this could be guessed; 32 random bytes in hex are 64 characters.
_Key = Annotated[SecretStr, Field(min_length=16)]


class Settings(BaseModel):
    """The settings of every command."""

    # Defaults are checked too: they may clash with what is set.
    model_config = ConfigDict(frozen=True, validate_default=True)

    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"


class RedisSettings(Settings):
    redis_url: Annotated[SecretStr, _url("redis", "rediss", "unix")]


class DatabaseSettings(Settings):
    database_url: Annotated[SecretStr, _url("postgresql", "postgres")]


class ServersSettings(RedisSettings, DatabaseSettings):
    """The settings of the operator's commands."""


class PollSettings(Settings):
    """The question and its options."""

    poll_title: Annotated[str, _Text, Field(max_length=200)] = "Cats or Dogs?"
    option_a: Annotated[str, _Text, Field(max_length=60)] = "Cats"
    option_b: Annotated[str, _Text, Field(max_length=60)] = "Dogs"

    @property
    def question(self) -> Question:
        return Question(self.poll_title, self.option_a, self.option_b)

    @field_validator("option_b")
    @classmethod
    def _options_differ(cls, value: str, info: ValidationInfo) -> str:
        if value == info.data.get("option_a"):
            raise ValueError("must differ from OPTION_A")
        return value


class ShowResultsSettings(Settings):
    """The settings of everything that shows totals."""

    show_results: ShowResults = "always"


class ExportSettings(PollSettings, ShowResultsSettings, DatabaseSettings):
    pass


class RoleSettings(Settings):
    """The settings of every role. Port 0 means any free port."""

    host: str = "0.0.0.0"  # noqa: S104 - a container serves its pod's address
    port: _Port = 8080
    ops_port: _Port = 9090
    # The commit that the image was built from; its build sets it.
    commit: str = "unknown"
    # OpenTelemetry's SDK reads these and related variables itself; here they only enable it.
    otel_exporter_otlp_endpoint: str | None = None
    otel_exporter_otlp_traces_endpoint: str | None = None

    @property
    def tracing(self) -> bool:
        """Whether to send spans: a collector is configured."""
        return bool(self.otel_exporter_otlp_endpoint or self.otel_exporter_otlp_traces_endpoint)

    @field_validator("ops_port")
    @classmethod
    def _ports_differ(cls, value: int, info: ValidationInfo) -> int:
        if value == info.data.get("port") != 0:
            raise ValueError("must differ from PORT")
        return value


class PageSettings(RoleSettings, PollSettings):
    """The settings of the roles with a page."""

    vote_url: _WebAddress | None = None
    result_url: _WebAddress | None = None

    @property
    def secure(self) -> bool:
        """Whether browsers use TLS, which the Ingress terminates, by the page's own URL."""
        return (self._own_url or "").startswith("https://")

    @property
    def _own_url(self) -> str | None:
        return None


class LoadSettings(Settings):
    """The pages that `voting load` uses; the defaults are those of `voting up`."""

    vote_url: _WebAddress = "http://localhost:8080"
    result_url: _WebAddress = "http://localhost:8081"


class VoteSettings(PageSettings, RedisSettings):
    secret_keys: Annotated[tuple[_Key, ...], BeforeValidator(_keys), Field(min_length=1)]
    # For each voter; 0 means no limit.
    votes_per_minute: Annotated[int, Field(ge=0)] = 20

    @property
    def _own_url(self) -> str | None:
        return self.vote_url


class ResultSettings(PageSettings, ExportSettings):
    @property
    def _own_url(self) -> str | None:
        return self.result_url


class WorkerSettings(RoleSettings, RedisSettings, DatabaseSettings):
    # For tests only, and not in the documentation: seconds.
    claim_min_idle: _Seconds = 15.0
    maintenance_interval: _Seconds = 5.0


ROLE_SETTINGS: Mapping[Role, type[RoleSettings]] = {
    Role.VOTE: VoteSettings,
    Role.RESULT: ResultSettings,
    Role.WORKER: WorkerSettings,
}


SettingsType = TypeVar("SettingsType", bound=BaseModel)


def load_settings(model: type[SettingsType], environ: Mapping[str, str]) -> SettingsType:
    """Read the variables of `model`; an empty variable counts as not set.

    Raises SettingsError with a line for each problem. No line contains a value, as it may be
    secret.
    """
    names = {name: name.upper() for name in model.model_fields}
    given = {name: environ[key] for name, key in names.items() if environ.get(key)}
    try:
        return model.model_validate(given)
    except ValidationError as error:
        raise SettingsError(
            [_line(problem["loc"], problem["msg"]) for problem in error.errors()]
        ) from None


def load_role(environ: Mapping[str, str]) -> Role:
    """Read ROLE. Raises SettingsError, which also lists the problems that all roles have."""
    problems = []
    if environ.get("ROLE") not in list(Role):
        problems.append(f"ROLE: must be one of {', '.join(Role)}")
        try:
            load_settings(RoleSettings, environ)
        except SettingsError as error:
            problems += error.problems
        raise SettingsError(problems)
    return Role(environ["ROLE"])


def default_data_dir() -> Path:
    """Return the directory in which `voting up` keeps its data by default."""
    if os.geteuid() == 0:
        return Path("/var/lib/voting")  # Postgres runs as another user, who can't enter /root
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "voting"


def _line(location: tuple[int | str, ...], message: str) -> str:
    message = message.removeprefix("Value error, ")
    name = str(location[0]).upper()
    return f"{name}: is required" if message == "Field required" else f"{name}: {message}"
