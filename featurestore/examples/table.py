"""The table of examples: what each is made of, how its events are generated, and what the demo shows of it.

A further example is its pipeline and schema at the top of the repository, a generator in this room, and a row here; the
build packs the files (pyproject.toml). Importing the table is cheap: generators are imported when they are asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from featurestore.durations import format_instant

if TYPE_CHECKING:
    from featurestore.examples.stream import EventStream

SHARED_FILES = ("featurestore.toml", "pipelines/__init__.py")
"""Files that every example's project has, the same for all."""


@dataclass(frozen=True)
class Span:
    """The event time that a stream covers, and how many messages it has. start_us: UTC, µs; seed: of its chance."""

    events: int
    start_us: int
    duration_us: int
    seed: int

    @property
    def start(self) -> str:
        """The beginning as ISO 8601."""
        return format_instant(self.start_us)

    @property
    def duration_s(self) -> float:
        """The length in seconds."""
        return self.duration_us / 1e6


@dataclass(frozen=True)
class Example:
    """A project that runs as it stands.

    about: one line. module, schema: its files, from the project's folder. source: the name of its source, and of the
    topic. shown_view, shown_features, shown_entities: what the demo reads, entities by join key, one value a row.
    stream: generates its messages.
    """

    name: str
    about: str
    module: str
    schema: str
    source: str
    shown_view: str
    shown_features: tuple[str, ...]
    shown_entities: Mapping[str, tuple[str, ...]]
    stream: Callable[[Span], EventStream]

    @property
    def files(self) -> tuple[str, ...]:
        """All files of its project, from the project's folder."""
        return (*SHARED_FILES, self.module, self.schema)

    @property
    def dotted_module(self) -> str:
        """The module as it is imported."""
        return self.module.removesuffix(".py").replace("/", ".")


def _transactions(span: Span) -> EventStream:
    from featurestore.examples.transactions import Shape, TransactionStream

    shape = Shape(events=span.events, cards=2_000, start=span.start, duration_s=span.duration_s)
    return TransactionStream(shape, seed=span.seed)


def _clicks(span: Span) -> EventStream:
    from featurestore.examples.clicks import ClickStream, Shape

    return ClickStream(Shape(events=span.events, start=span.start, duration_s=span.duration_s), seed=span.seed)


def _sensors(span: Span) -> EventStream:
    from featurestore.examples.files import template_root
    from featurestore.examples.sensors import SensorStream, Shape

    shape = Shape(events=span.events, start=span.start, duration_s=span.duration_s)
    return SensorStream(template_root() / BY_NAME["sensors"].schema, shape, seed=span.seed)


# Of shown_features so many that the demo's table fits 80 columns.
_ROWS = (
    Example(
        name="fraud",
        about="card payments: what a card and a merchant have been doing lately",
        module="pipelines/transactions.py",
        schema="schemas/transaction.avsc",
        source="transactions",
        shown_view="card_activity",
        shown_features=("count_10m", "count_1h", "amount_eur_sum_1h", "merchant_id_last"),
        shown_entities=MappingProxyType({"card_id": tuple(f"card_{number:06d}" for number in range(4))}),
        stream=_transactions,
    ),
    Example(
        name="clicks",
        about="views and clicks in a shop: what a user likes, which items take off",
        module="pipelines/clicks.py",
        schema="schemas/click.json",
        source="clicks",
        shown_view="item_activity",
        shown_features=("views_sum_1h", "clicks_sum_1h", "dwell_s_mean_1h", "clicks_ever"),
        shown_entities=MappingProxyType({"item_id": tuple(f"item_{number:05d}" for number in range(4))}),
        stream=_clicks,
    ),
    Example(
        name="sensors",
        about="machine sensors behind gateways that go offline: predictive maintenance",
        module="pipelines/sensors.py",
        schema="schemas/sensor_reading.avsc",
        source="sensor_readings",
        shown_view="machine_condition",
        shown_features=("count_1h", "temperature_mean_1h", "vibration_max_1h", "alarm_sum_24h"),
        shown_entities=MappingProxyType({"machine_id": tuple(f"machine_{number:04d}" for number in range(4))}),
        stream=_sensors,
    ),
)
BY_NAME: Mapping[str, Example] = MappingProxyType({example.name: example for example in _ROWS})
"""Every example by name, the default one first."""

DEFAULT = _ROWS[0].name
