"""What would become of messages if they came now, under a definition: the reader's own decoding and rules."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featurestore.batches import NO_TIME
from featurestore.definitions.specs import SourceSpec
from featurestore.sources.decode import Decoder
from featurestore.sources.lateness import in_future, too_late, watermark_before
from featurestore.sources.schema_registry import SchemaRegistry

ACCEPTED = "accepted"
TOO_LATE = "too late"


@dataclass(frozen=True)
class Trial:
    """Verdicts in the order of the messages: ACCEPTED, TOO_LATE or a dead letter's reason.

    event_us: event times, NO_TIME where none can be read. needed_us: allowed lateness that a too-late one would need,
    0 for others.
    """

    verdicts: list[str]
    event_us: np.ndarray
    needed_us: np.ndarray


def try_messages(
    spec: SourceSpec,
    base_dir: Path,
    registry: SchemaRegistry | None,
    values: Sequence[bytes | None],
    partitions: Sequence[int],
    newest_us: Mapping[int, int],
) -> Trial:
    """Judge raw values as if they came next in their partitions.

    newest_us: largest event time of each partition, NO_TIME or absent if none. The order of the values plays no part.
    """
    decoded = Decoder(spec, base_dir, registry).decode(values)
    verdicts = [ACCEPTED] * len(values)
    for bad in decoded.bad:
        verdicts[bad.index] = bad.reason
    event_us = np.full(len(values), NO_TIME, dtype=np.int64)
    times = decoded.frame[spec.event_time].dt.epoch("us")
    known = times.is_not_null().to_numpy()
    event_us[decoded.good[known]] = times.drop_nulls().to_numpy()
    for index in decoded.good[~known].tolist():
        verdicts[index] = "event_time_missing"
    before = np.array([newest_us.get(partition, NO_TIME) for partition in partitions], dtype=np.int64)
    watermark = watermark_before(before, spec.max_out_of_orderness_us)
    timed = event_us != NO_TIME
    late = timed & too_late(event_us, watermark, spec.allowed_lateness_us)
    future = timed & in_future(event_us, time.time_ns() // 1_000, spec.max_future_us)
    for index in np.flatnonzero(late).tolist():
        verdicts[index] = TOO_LATE
    for index in np.flatnonzero(future).tolist():
        verdicts[index] = "event_time_in_future"
    return Trial(verdicts, event_us, np.where(late, watermark - event_us, 0))
