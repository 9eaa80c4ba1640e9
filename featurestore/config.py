"""Settings: defaults, then `featurestore.toml`, then the environment, then options; the last one wins.

A wrong setting is told with its key, its value, where it came from and what was expected.
"""

# No `from __future__ import annotations`: pydantic reads annotations at run time.
import difflib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from featurestore.durations import parse_duration_us
from featurestore.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

FILE_NAME = "featurestore.toml"
ENV_PREFIX = "FEATURESTORE_"
COMMIT_INTERVAL_US_MIN, COMMIT_INTERVAL_US_MAX = 50_000, 60_000_000

_OURS_IN_KAFKA = {
    "bootstrap.servers": "kafka.bootstrap_servers",
    "group.id": "kafka.group_id",
    "enable.auto.commit": None,
    "enable.auto.offset.store": None,
    "auto.offset.reset": None,
}


def _duration(value: str) -> str:
    try:
        parse_duration_us(value)
    except ConfigError as error:
        raise ValueError(f"a duration: {error.hint}") from error
    return value


def _commit_interval(value: str) -> str:
    if not COMMIT_INTERVAL_US_MIN <= parse_duration_us(value) <= COMMIT_INTERVAL_US_MAX:
        raise ValueError("a duration from 50ms to 60s")
    return value


def _positive(value: str) -> str:
    if parse_duration_us(value) == 0:
        raise ValueError("a duration above 0")
    return value


def _kafka_settings(value: object) -> object:
    """librdkafka's names: dots may have nested a TOML table; in the environment they are `_`."""
    if not isinstance(value, Mapping):
        return value
    flat: dict[str, str] = {}

    def flatten(prefix: str, table: Mapping[str, object]) -> None:
        for key, item in table.items():
            name = f"{prefix}{key}".replace("_", ".")
            if isinstance(item, Mapping):
                flatten(f"{name}.", item)
            else:
                flat[name] = str(item).lower() if isinstance(item, bool) else str(item)

    flatten("", value)
    for name in flat:
        if name in _OURS_IN_KAFKA:
            instead = _OURS_IN_KAFKA[name]
            raise ValueError(
                f"no '{name}' in it: " + (f"set {instead}" if instead else "featurestore keeps its own offsets")
            )
    return flat


Duration = Annotated[str, AfterValidator(_duration)]
Port = Annotated[int, Field(ge=0, le=65535)]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


class StoreSettings(_Section):
    """[store]: where data lies, and what a power cut may cost."""

    data_dir: Annotated[
        Path,
        Field(
            description="where everything lies: `online/`, `offline/`, `registry/`, and `broker.json` while an "
            "embedded broker runs. A relative path is relative to the working directory"
        ),
    ] = Path("data")
    shards: Annotated[
        int,
        Field(
            ge=1,
            le=1024,
            description="shards of a *new* online store, 1 to 1024; an existing store keeps its number, which is "
            "written in it. The upper bound of useful worker processes; more shards mean more and smaller commits",
        ),
    ] = 8
    fsync: Annotated[
        Literal["off", "commit"],
        Field(
            description='what a power cut may cost. `"off"`: the write-ahead log is left to the operating system; a '
            "killed process loses nothing, a power cut may lose seconds, which are replayed from the topic. "
            '`"commit"`: every commit is on the disk when it returns'
        ),
    ] = "off"


class KafkaSettings(_Section):
    """[kafka]: the broker."""

    bootstrap_servers: Annotated[
        str,
        Field(
            min_length=1,
            description='`host:port,…`, or `"embedded"` for the development broker that `featurestore broker` hosts '
            "for this data_dir",
        ),
    ] = "embedded"
    group_id: Annotated[
        str,
        Field(
            min_length=1,
            description="the consumer group of a source is `<group_id>.<source>`; its offsets are written for tools "
            "that show lag, and never read",
        ),
    ] = "featurestore"
    # Passwords live here: not shown when a Settings object is printed.
    settings: Annotated[
        dict[str, str], BeforeValidator(_kafka_settings), Field(repr=False, description="librdkafka's own: see below")
    ] = {}


class SchemaRegistrySettings(_Section):
    """[schema_registry]: where the schemas that values of format "avro-confluent" were written with are looked up."""

    # User and password may be in it: not shown when a Settings object is printed.
    url: Annotated[
        str | None,
        Field(
            repr=False,
            description="`http://host:8081`, with `user:password@` where it wants them. A certificate authority of "
            "your own: the environment's `SSL_CERT_FILE`. Without it, values are read by the schema file alone",
        ),
    ] = None


class RegistrySettings(_Section):
    """[registry]: where it is, and what may be applied."""

    # A password may be in it: not shown when a Settings object is printed.
    url: Annotated[
        str | None,
        Field(
            repr=False,
            description="`postgresql://user:password@host:5432/database`, for several machines or workers in "
            "production; needs `featurestore[postgres]`. Without it the registry is a SQLite file under the data_dir",
        ),
    ] = None

    in_use_days: Annotated[
        int,
        Field(
            ge=0,
            description="so many days after its last read a feature counts as in use: removing it is breaking",
        ),
    ] = 30
    require_owner: Annotated[
        bool, Field(description="refuse to apply views and feature services that name no `owner`")
    ] = False


class WorkerSettings(_Section):
    """[worker]: what `featurestore run` starts."""

    commit_interval: Annotated[
        Duration,
        AfterValidator(_commit_interval),
        Field(
            description="how often a shard commits, `50ms` to `60s`: how soon an event can be read. Shorter ones cost "
            "more CPU an event"
        ),
    ] = "1s"
    processes: Annotated[
        int,
        Field(
            ge=1,
            le=256,
            description="worker processes on this machine, 1 to 256; useful up to the least of cores, partitions and "
            "shards",
        ),
    ] = 1
    metrics_host: Annotated[str, Field(description="where the metrics of a worker are served")] = "127.0.0.1"
    metrics_port: Annotated[
        Port, Field(description="port of process 0; process i serves at `+ i`; `0` switches it off")
    ] = 9464

    @property
    def commit_interval_s(self) -> float:
        """The commit interval in seconds."""
        return parse_duration_us(self.commit_interval) / 1e6


class ServingSettings(_Section):
    """[serving]: what `featurestore serve` starts."""

    host: Annotated[str, Field(description="address to listen at")] = "127.0.0.1"
    port: Annotated[Port, Field(description="port; `0` takes a free one, which is printed")] = 6566
    clock: Annotated[
        Literal["wall", "event"],
        Field(
            description='what *now* is for a read without `as_of`: `"wall"` the clock, `"event"` just after the newest '
            "event of the view's source, for replays and demos"
        ),
    ] = "wall"
    refresh_interval: Annotated[
        Duration,
        AfterValidator(_positive),
        Field(description="how often the server catches up with the workers' commits"),
    ] = "100ms"
    processes: Annotated[
        int, Field(ge=1, le=256, description="server processes that share the port, 1 to 256; one a core")
    ] = 1
    max_body_bytes: Annotated[
        int, Field(ge=1, description="largest body of a read request in bytes; a larger one is answered with 413")
    ] = 1_048_576
    max_entities: Annotated[
        int, Field(ge=1, description="most entities of one read request; more are answered with 422")
    ] = 1_000
    max_features: Annotated[
        int, Field(ge=1, description="most features of one read request; more are answered with 422")
    ] = 500
    drain_delay: Annotated[
        Duration,
        Field(
            description="how long a server that was told to end (SIGTERM, Ctrl-C) goes on serving with `/ready` at "
            "503, for load balancers to notice; then it closes the port and finishes what is under way"
        ),
    ] = "500ms"

    @property
    def refresh_interval_s(self) -> float:
        """The refresh interval in seconds."""
        return parse_duration_us(self.refresh_interval) / 1e6

    @property
    def drain_delay_s(self) -> float:
        """The drain delay in seconds."""
        return parse_duration_us(self.drain_delay) / 1e6


class Settings(BaseSettings):
    """All settings. `Settings.load` reads file and environment; the constructor only its arguments."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", extra="forbid", frozen=True, validate_default=True
    )

    store: StoreSettings = StoreSettings()
    kafka: KafkaSettings = KafkaSettings()
    schema_registry: SchemaRegistrySettings = SchemaRegistrySettings()
    registry: RegistrySettings = RegistrySettings()
    worker: WorkerSettings = WorkerSettings()
    serving: ServingSettings = ServingSettings()

    @property
    def registry_place(self) -> Path | str:
        """The registry's URL, or its file under the data_dir."""
        return self.registry.url or self.store.data_dir / "registry" / "registry.db"

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only arguments: a worker's child gets its parent's settings, whatever its own environment says."""
        return (init_settings,)

    @classmethod
    def load(cls, directory: Path, overrides: Mapping[str, object] | None = None) -> "Settings":
        """Settings of the project in `directory`.

        overrides: from options, by dotted key ("kafka.bootstrap_servers"); None: the option was not given.
        A relative data_dir is relative to `directory`. A missing file is fine.

        Raises ConfigError for an unknown key, a wrong value, or a file that is not TOML.
        """
        path = directory / FILE_NAME
        layers = [
            (str(path), _read_file(path)),
            ("the environment", _read_environment()),
            ("an option", _nest(overrides or {})),
        ]
        merged: dict[str, Any] = {}
        for _, layer in layers:
            _merge(merged, layer)
        try:
            settings = cls(**merged)
        except ValidationError as error:
            raise _config_error(error, layers) from None
        store = settings.store.model_copy(update={"data_dir": (directory / settings.store.data_dir).resolve()})
        return settings.model_copy(update={"store": store})


def _read_file(path: Path) -> dict[str, Any]:
    try:
        table: dict[str, Any] = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError(f"{path}: {error}", hint="it must be a readable TOML file") from error
    return table


def _read_environment() -> dict[str, Any]:
    sections = sorted(Settings.model_fields)
    for name in os.environ:
        section = name.removeprefix(ENV_PREFIX).split("__")[0].lower()
        if name.startswith(ENV_PREFIX) and "__" in name and section not in sections:
            raise ConfigError(f"environment variable {name}: no section [{section}]", hint=_nearest(section, sections))
    try:
        return dict(EnvSettingsSource(Settings)())
    except SettingsError as error:
        raise ConfigError(f"the environment: {error}", hint="a table in a variable is written as JSON") from error


def _nest(overrides: Mapping[str, object]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in overrides.items():
        if value is not None:
            *sections, name = key.split(".", 1)
            table = nested.setdefault(sections[0], {}) if sections else nested
            table[name] = value
    return nested


def _merge(into: dict[str, Any], layer: Mapping[str, Any]) -> None:
    for key, value in layer.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _config_error(error: ValidationError, layers: list[tuple[str, dict[str, Any]]]) -> ConfigError:
    """The first thing that is wrong, in our words."""
    first = error.errors()[0]
    location = [str(part) for part in first["loc"]]
    key = ".".join(location)
    origin = next((name for name, layer in reversed(layers) if _holds(layer, location)), FILE_NAME)
    if first["type"] == "extra_forbidden":
        known = Settings.model_fields
        if len(location) > 1:
            section = known[location[0]].annotation
            assert isinstance(section, type)
            assert issubclass(section, BaseModel)
            known = section.model_fields
        return ConfigError(f"{origin}: unknown key '{key}'", hint=_nearest(location[-1], sorted(known)))
    message = first["msg"].removeprefix("Value error, ")
    expected = message.removeprefix("Input should be ").removeprefix("expected ")
    # Values of [kafka.settings] may be secrets.
    value = "has a wrong value" if key.startswith("kafka.settings") else f"is {first['input']!r}"
    return ConfigError(f"{origin}: {key} {value}; expected {expected}")


def _holds(layer: Mapping[str, Any], location: list[str]) -> bool:
    current: object = layer
    for part in location:
        if not isinstance(current, Mapping) or part not in current:
            return False
        current = current[part]
    return True


def _nearest(name: str, known: list[str]) -> str:
    near = difflib.get_close_matches(name, known, n=3)
    return f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}"
