"""Messages of a poll as columns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, compress, pairwise
from operator import itemgetter

import numpy as np
from confluent_kafka import TIMESTAMP_LOG_APPEND_TIME, Message

from featurestore.sources.columns import TIME_MAX_US, TIME_MIN_US


@dataclass(frozen=True)
class RawMessages:
    """Messages of a poll, sorted by partition, then offset; arrays int64 unless said otherwise, shape (n,).

    arrival_us: Kafka's timestamp, held within the years 1 to 9999. broker_time: whether the broker set it
    (else the producer did), boolean. sizes: value bytes. spans: (partition, first row, end row) of each
    partition. reached: one past the last message of each partition, wanted or not.
    """

    messages: Sequence[Message]
    values: list[bytes | None]
    offsets: np.ndarray
    arrival_us: np.ndarray
    broker_time: np.ndarray
    sizes: np.ndarray
    spans: list[tuple[int, int, int]]
    reached: dict[int, int]


def collect(messages: Sequence[Message], wanted: Mapping[int, tuple[int, int | None]]) -> RawMessages:
    """Take the columns out of messages (without errors among them), each by one C-level map.

    wanted: partition -> (first offset, end offset or None); what lies outside is left out.
    """
    partitions = np.fromiter(map(Message.partition, messages), dtype=np.int64, count=len(messages))
    if len(messages) > 1 and (np.diff(partitions) < 0).any():
        # Sorted once, no column needs sorting later. (itemgetter of one index would give no tuple.)
        order = np.argsort(partitions, kind="stable")
        messages, partitions = itemgetter(*order.tolist())(messages), partitions[order]
    offsets = np.fromiter(map(Message.offset, messages), dtype=np.int64, count=len(messages))
    reached = {partition: int(offsets[end - 1]) + 1 for partition, _, end in _spans(partitions)}
    keep = _within(partitions, offsets, wanted)
    if keep is not None:
        messages = list(compress(messages, keep.tolist()))
        partitions, offsets = partitions[keep], offsets[keep]
    n = len(messages)
    values: list[bytes | None] = list(map(Message.value, messages))
    stamps = np.fromiter(chain.from_iterable(map(Message.timestamp, messages)), dtype=np.int64, count=2 * n)
    return RawMessages(
        messages=messages,
        values=values,
        offsets=offsets,
        # A producer may send any number as timestamp; what is no instant would overflow in µs.
        arrival_us=np.clip(stamps[1::2], -(-TIME_MIN_US // 1_000), TIME_MAX_US // 1_000) * 1_000,
        broker_time=stamps[0::2] == TIMESTAMP_LOG_APPEND_TIME,
        sizes=np.fromiter(map(len, messages), dtype=np.int64, count=n),
        spans=list(_spans(partitions)),
        reached=reached,
    )


def _spans(partitions: np.ndarray) -> Iterator[tuple[int, int, int]]:
    if len(partitions):
        cuts = np.flatnonzero(np.diff(partitions)) + 1
        edges = [0, *cuts.tolist(), len(partitions)]
        for start, end in pairwise(edges):
            yield int(partitions[start]), start, end


def _within(
    partitions: np.ndarray, offsets: np.ndarray, wanted: Mapping[int, tuple[int, int | None]]
) -> np.ndarray | None:
    """Which rows are wanted, None where all are."""
    keep = np.ones(len(offsets), dtype=bool)
    for partition, start, end in _spans(partitions):
        low, high = wanted[partition]
        mine = offsets[start:end]
        # Offsets ascend, so that the ends tell.
        if mine[0] < low or (high is not None and mine[-1] >= high):
            keep[start:end] = (mine >= low) & (mine < high if high is not None else True)
    return None if keep.all() else keep
