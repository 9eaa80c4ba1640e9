"""Verdicts of a source whose definition has changed: each message is judged by the one that held at its offset.

A change of a source (out-of-orderness, lateness, how values are decoded) takes effect at a recorded offset of each
partition. Whoever reads earlier messages again decides about them as was decided then; and a backfill reads the
archive, which holds those decisions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec
import polars as pl
from confluent_kafka import Message

from featurestore.compile.columns import conform
from featurestore.definitions.specs import SourceSpec
from featurestore.sources.decode import Decoder
from featurestore.sources.duplicates import SeenIds
from featurestore.sources.judge import Judge, Judged
from featurestore.sources.messages import RawMessages
from featurestore.sources.schema_registry import SchemaRegistry
from featurestore.sources.verdicts import VerdictJournal


class EarlierSource(msgspec.Struct, frozen=True):
    """A source as it was. until: by partition, the first offset that the definition after it decides about."""

    spec: SourceSpec
    until: dict[int, int]


def same_verdicts(one: SourceSpec, other: SourceSpec) -> bool:
    """Whether two definitions of a source decide the same about every message."""

    def deciding(spec: SourceSpec) -> SourceSpec:
        told: dict[str, object] = {"owner": "", "description": "", "tags": {}, "schema": ""}
        # Idleness delays what is emitted; it decides about no message.
        return msgspec.structs.replace(spec, idle_timeout_us=0, **told)

    return deciding(one) == deciding(other)


class SourceVerdicts:
    """Decodes and judges messages of some partitions, each by the definition that held at its offset.

    earlier: definitions before the present one, the oldest first. newest: by partition, the largest event time before
    its first message, µs, NO_TIME if none. seen: ids of each partition that a source with `dedupe_by` has brought. Of a
    definition with another `dedupe_by` only those of messages that are read from now on are known.
    """

    def __init__(
        self,
        spec: SourceSpec,
        earlier: Sequence[EarlierSource],
        newest: Mapping[int, int],
        journals: Mapping[int, VerdictJournal],
        seen: Mapping[int, SeenIds] | None,
        *,
        base_dir: Path,
        registry: SchemaRegistry | None,
    ) -> None:
        self._spec = spec
        self._earlier = list(earlier)
        self.max_event_time_us = dict(newest)
        """Of each partition's valid events so far; one for all definitions."""

        def judge_of(one: SourceSpec) -> tuple[Decoder, Judge]:
            known = seen
            if one.dedupe_by is None:
                known = None
            elif (one.dedupe_by, one.dedupe_within_us) != (spec.dedupe_by, spec.dedupe_within_us):
                known = {partition: SeenIds(one, None) for partition in journals}
            judge = Judge(one, newest, journals, known)
            judge.max_event_time_us = self.max_event_time_us
            return Decoder(one, base_dir, registry), judge

        self._present = judge_of(spec)
        self._past = [judge_of(one.spec) for one in self._earlier]

    def first_part(self, messages: Sequence[Message]) -> tuple[Sequence[Message], Sequence[Message]]:
        """Those of the oldest definition that decides about any of them, to be judged next; and the rest."""
        if not self._earlier or not messages:
            return messages, ()
        places = [self._place(_partition(message), _offset(message)) for message in messages]
        first = min(places)
        return [message for message, place in zip(messages, places, strict=True) if place == first], [
            message for message, place in zip(messages, places, strict=True) if place != first
        ]

    def judge(self, raw: RawMessages, wall_us: int) -> list[Judged]:
        """Verdicts on messages that `first_part` gave, by partition as in `raw.spans`. wall_us: the clock at reading.

        Raises SchemaRegistryUnavailableError when a value needs a schema that can't be had now.
        """
        past = None
        if self._earlier and raw.spans:
            partition, start, _ = raw.spans[0]
            place = self._place(partition, int(raw.offsets[start]))
            past = self._past[place] if place < len(self._past) else None
        decoder, judge = past or self._present
        judged = judge.judge(raw, decoder.decode(raw.values), wall_us)
        if past is None:
            return judged
        return [replace(one, accepted=self._conform(one.accepted), late=self._conform(one.late)) for one in judged]

    def forget_passed(self, next_offset: Callable[[int], int]) -> None:
        """Drop definitions that no message will need any more. next_offset: where each partition is read on."""
        while self._earlier and all(next_offset(p) >= end for p, end in self._earlier[0].until.items()):
            del self._earlier[0], self._past[0]

    def _place(self, partition: int, offset: int) -> int:
        """Which definition decides, of the earlier ones and then the present one."""
        places = (n for n, one in enumerate(self._earlier) if offset < one.until.get(partition, 0))
        return next(places, len(self._earlier))

    def _conform(self, events: pl.DataFrame) -> pl.DataFrame:
        """With the columns that the source has now."""
        own = {column.name for one in self._earlier for column in one.spec.columns}
        own -= {column.name for column in self._spec.columns}
        found = conform(events.drop(own, strict=False), self._spec.columns)
        names = [column.name for column in self._spec.columns]
        return found.select(*names, pl.exclude(names))


def _offset(message: Message) -> int:
    offset = message.offset()
    assert offset is not None
    return offset


def _partition(message: Message) -> int:
    partition = message.partition()
    assert partition is not None
    return partition
