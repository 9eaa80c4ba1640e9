"""Sources: a Kafka topic, how its values are read, and its rules of time."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Literal, get_args

from featurestore.definitions.metadata import check_people
from featurestore.definitions.names import check_name, duration_us
from featurestore.errors import DefinitionError

FORMATS = ("json", "avro", "avro-confluent")
MAX_FUTURE = "1m"
Compatibility = Literal["backward", "forward", "full"]


class DefinitionWarning(UserWarning):
    """A definition is allowed, but seldom meant."""


@dataclass(frozen=True)
class KafkaSource:
    """A Kafka topic as a source of events.

    schema: path of an Avro (.avsc) or JSON Schema (.json) file. format: how values are on the wire: json,
    avro or avro-confluent. event_time: the column that says when it happened. max_out_of_orderness: how
    far an event may come behind the newest of its partition and be on time; allowed_lateness: how much
    further it still counts, as a correction; idle_timeout: how long a partition may be silent before it
    no longer holds the watermark back; max_future: how far beyond its arrival an event time is believed.
    compatibility: how the schema may change (`featurestore check`): backward: its readers read what was written
    before; forward: yesterday's readers read what is written now; full: both.
    dedupe_by: the column of an event's id; an event whose id its partition brought already is counted as a
    duplicate and nothing else. dedupe_within: how far behind the partition's newest event an id is remembered;
    left out, as far as an event may be late, which is enough where a message sent twice has one event time.
    Raises DefinitionError when built wrongly. Warns when a max_future that was set exceeds what lateness forgives.
    """

    name: str
    topic: str
    schema: str
    event_time: str
    format: str = "json"
    max_out_of_orderness: str | timedelta = "0s"
    allowed_lateness: str | timedelta = "0s"
    idle_timeout: str | timedelta = "30s"
    max_future: str | timedelta = MAX_FUTURE
    description: str = ""
    compatibility: Compatibility = "backward"
    dedupe_by: str | None = None
    dedupe_within: str | timedelta | None = None
    owner: str = ""
    # No part of the hash: a dict has none.
    tags: Mapping[str, str] = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        what = f"source '{self.name}'"
        check_name(self.name, "source")
        for name in ("topic", "schema", "event_time"):
            value = getattr(self, name)
            if not value or not isinstance(value, str):
                raise DefinitionError(f"{what}: {name} is {value!r}", hint=f"give its {name} as text")
        object.__setattr__(self, "tags", check_people(what, self.owner, self.description, self.tags))
        if self.format not in FORMATS:
            raise DefinitionError(f"{what}: unknown format {self.format!r}", hint=f"use {', '.join(FORMATS)}")
        if self.compatibility not in get_args(Compatibility):
            raise DefinitionError(
                f"{what}: unknown compatibility {self.compatibility!r}",
                hint=f"use {', '.join(get_args(Compatibility))}",
            )
        duration_us(self.idle_timeout, f"{what}: idle_timeout", positive=True)
        tolerated = duration_us(self.max_out_of_orderness, f"{what}: max_out_of_orderness")
        tolerated += duration_us(self.allowed_lateness, f"{what}: allowed_lateness")
        self._check_dedupe(what, tolerated)
        future = duration_us(self.max_future, f"{what}: max_future")
        if self.max_future != MAX_FUTURE and future > tolerated:
            warnings.warn(
                f"{what}: max_future {self.max_future} exceeds max_out_of_orderness plus allowed_lateness: "
                "one event from the future makes events that are on time too late",
                DefinitionWarning,
                stacklevel=3,
            )

    def _check_dedupe(self, what: str, tolerated_us: int) -> None:
        if self.dedupe_within is None:
            return
        if self.dedupe_by is None:
            raise DefinitionError(
                f"{what}: dedupe_within without dedupe_by",
                hint="name the column of the event's id: dedupe_by='event_id'",
            )
        if duration_us(self.dedupe_within, f"{what}: dedupe_within") < tolerated_us:
            raise DefinitionError(
                f"{what}: dedupe_within {self.dedupe_within} is shorter than max_out_of_orderness plus "
                "allowed_lateness: an event that is not too late could count twice",
                hint="leave it out, or make it longer",
            )
