"""Streams with everything that goes wrong in one, and ways to read them.

A stream is a list of messages for each partition. Events look like card transactions (`COLUMNS`).
`streams` and `cuts` are for hypothesis, which makes a failure small; `random_stream` and `random_cuts` make
thousands of events from a seed.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.oracle.model import HOUR, MINUTE, MS, SECOND, Message, SourceParams

Stream = list[list[Message]]
Cuts = list[tuple[int, int]]

BASE_US = 1_767_225_600 * SECOND  # 2026-01-01T00:00:00Z

# Columns of the events: polars dtype, and whether null is allowed.
COLUMNS: dict[str, tuple[str, bool]] = {
    "ts": ("Datetime", False),
    "card_id": ("String", True),
    "merchant_id": ("String", True),
    "amount": ("Float64", True),
    "quantity": ("Int64", True),
    "online": ("Boolean", True),
    "status": ("String", True),
}
PARAMS = SourceParams("ts", ooo_us=5 * SECOND, lateness_us=MINUTE, max_future_us=MINUTE)

CARDS = ("c1", "c2", "c3", "ü|4", "", None)
MERCHANTS = ("m1", "m2", "m3", None)
STATUSES = ("approved", "approved", "approved", "declined", "unknown", None)
AMOUNTS = (0.0, 0.01, 12.34, 99.99, 1e9 + 0.1, -20.05, -0.1, None)
QUANTITIES = (0, 1, 2, 3, -7, 2**40 + 1, None)
FLAGS = (True, False, None)

# Where an event's time lies: seen from the partition's newest (all but the last four), or from its arrival.
PLACES = (
    "newest",
    "tie",
    "in_order_margin",  # behind, but not late
    "late",
    "lateness_edge",  # as late as is allowed
    "too_late_edge",  # 1 µs later
    "too_late",
    "future_edge",  # as far ahead as is allowed
    "future",
    "no_time",
    "malformed",
)


@dataclass(frozen=True)
class _Step:
    """One message's choices. ahead_us: how far time goes on first; depth: 0..1 within its place."""

    place: str
    ahead_us: int
    to_minute: int | None
    depth: float
    delay_us: int
    columns: dict[str, Any]


@dataclass
class _Line:
    """A partition as it grows. newest_us: largest valid event time, or its start before any."""

    partition: int
    params: SourceParams
    newest_us: int
    previous_us: int
    arrival_us: int
    messages: list[Message]

    @classmethod
    def empty(cls, partition: int, params: SourceParams, start_us: int) -> _Line:
        return cls(partition, params, start_us, start_us, start_us, [])

    def add(self, step: _Step, gap: int = 0) -> None:
        params = self.params
        front = self.newest_us + step.ahead_us
        if step.to_minute is not None:  # on a window's boundary, or 1 µs beside it
            front = max(self.newest_us, (front // MINUTE + 1) * MINUTE + step.to_minute)
        self.arrival_us = max(self.arrival_us, front) + step.delay_us
        edge = self.newest_us - params.ooo_us - params.lateness_us
        times: dict[str, Callable[[], int | None]] = {
            "newest": lambda: front,
            "tie": lambda: self.previous_us,
            "in_order_margin": lambda: self.newest_us - round(step.depth * params.ooo_us),
            "late": lambda: self.newest_us - params.ooo_us - round(step.depth * params.lateness_us),
            "lateness_edge": lambda: edge,
            "too_late_edge": lambda: edge - 1,
            "too_late": lambda: edge - 1 - round(step.depth * HOUR),
            "future_edge": lambda: self.arrival_us + params.max_future_us,
            "future": lambda: self.arrival_us + params.max_future_us + 1 + round(step.depth * HOUR),
            "no_time": lambda: None,
            "malformed": lambda: None,
        }
        time = times[step.place]()
        event = None if step.place == "malformed" else {params.event_time_field: time, **step.columns}
        offset = self.messages[-1].offset + 1 + gap if self.messages else gap
        self.messages.append(Message(self.partition, offset, event, self.arrival_us))
        if time is not None and step.place != "future":
            self.newest_us = max(self.newest_us, time)
            self.previous_us = time


_COLUMNS = st.fixed_dictionaries(
    {
        "card_id": st.sampled_from(CARDS),
        "merchant_id": st.sampled_from(MERCHANTS),
        "amount": st.sampled_from(AMOUNTS) | st.integers(-1_000_000, 1_000_000).map(lambda cents: cents / 100),
        "quantity": st.sampled_from(QUANTITIES),
        "online": st.sampled_from(FLAGS),
        "status": st.sampled_from(STATUSES),
    }
)
_STEPS = st.builds(
    _Step,
    place=st.sampled_from(("newest",) * 6 + ("in_order_margin",) * 3 + ("late",) * 2 + PLACES),
    ahead_us=st.sampled_from((0, 1, 900 * MS, 7 * SECOND, 31 * SECOND, 4 * MINUTE, HOUR)),
    to_minute=st.sampled_from((None, None, None, -1, 0, 1)),
    depth=st.sampled_from((0.0, 0.3, 0.7, 1.0)),
    delay_us=st.sampled_from((0, 0, 1, 800 * MS, 3 * MINUTE)),
    columns=_COLUMNS,
)


@st.composite
def streams(
    draw: st.DrawFn,
    params: SourceParams = PARAMS,
    *,
    partitions: int = 3,
    events: int = 40,
    gaps: bool = False,
) -> Stream:
    """Streams of 1..partitions partitions, some of them empty, with up to `events` messages in each.

    Every message may be out of order, too late, in the future, undecodable or tied with the one before, and
    carry nulls in its key, its status and its values. gaps: offsets may be left out, as transactions do.
    """
    stream = []
    for partition in range(draw(st.integers(1, partitions))):
        start = BASE_US + draw(st.sampled_from((0, 0, 1, 59 * SECOND, 10 * MINUTE)))
        line = _Line.empty(partition, params, start)
        for step in draw(st.lists(_STEPS, max_size=events)):
            line.add(step, draw(st.sampled_from((0, 0, 0, 3))) if gaps else 0)
        stream.append(line.messages)
    return stream


@st.composite
def cuts(draw: st.DrawFn, stream: Stream, *, most: int = 10) -> Cuts:
    """Ways to read a whole stream: the polls in order, each the next `count` messages of a partition."""
    left = {partition: len(messages) for partition, messages in enumerate(stream) if messages}
    polls = []
    while left:
        partition = draw(st.sampled_from(sorted(left)))
        count = draw(st.integers(1, min(most, left[partition])))
        polls.append((partition, count))
        left[partition] -= count
        if not left[partition]:
            del left[partition]
    return polls


def random_stream(
    seed: int,
    events: int,
    partitions: int = 3,
    *,
    params: SourceParams = PARAMS,
    keys: int = 50,
    step_us: int = 2 * SECOND,
    trouble: float = 0.1,
    nulls: float = 0.05,
    empty_partitions: Sequence[int] = (),
) -> Stream:
    """A stream of `events` messages in all, the same for the same arguments.

    step_us: mean advance of event time from message to message in a partition.
    trouble: share of messages late, too late, in the future, without a time or undecodable; of the others a
    fifth is out of order. nulls: share of nulls in each column. The first keys are the most frequent.
    """
    rng = random.Random(seed)
    lines = [_Line.empty(partition, params, BASE_US + rng.randrange(MINUTE)) for partition in range(partitions)]
    fed = [line for line in lines if line.partition not in empty_partitions]
    for _ in range(events):
        draw = rng.random()
        if draw < trouble:
            place = rng.choice(PLACES[3:])
        else:
            place = rng.choices(("newest", "in_order_margin", "tie"), (79, 20, 1))[0]
        step = _Step(
            place=place,
            ahead_us=rng.randrange(2 * step_us + 1),
            to_minute=rng.choice((-1, 0, 1)) if rng.random() < 0.01 else None,
            depth=rng.random(),
            delay_us=rng.randrange(SECOND),
            columns=_random_columns(rng, keys, nulls),
        )
        if place == "future_edge" and rng.random() < 0.9:  # it drags the watermark on: now and then is enough
            step = _Step("newest", step.ahead_us, None, 0.0, step.delay_us, step.columns)
        rng.choice(fed).add(step)
    return [line.messages for line in lines]


def random_cuts(seed: int, stream: Stream, *, most: int = 200) -> Cuts:
    """One way to read a whole stream in polls of at most `most` messages."""
    rng = random.Random(seed)
    left = {partition: len(messages) for partition, messages in enumerate(stream) if messages}
    polls = []
    while left:
        partition = rng.choice(sorted(left))
        count = rng.randint(1, min(most, left[partition]))
        polls.append((partition, count))
        left[partition] -= count
        if not left[partition]:
            del left[partition]
    return polls


def polls_of(stream: Stream, polls: Cuts) -> list[list[Message]]:
    """The messages of each poll."""
    position = [0] * len(stream)
    batches = []
    for partition, count in polls:
        start = position[partition]
        batches.append(stream[partition][start : start + count])
        position[partition] += count
    return batches


def in_sequence(stream: Stream) -> list[Message]:
    """All messages, one partition after the other: the oracle does not care."""
    return [message for partition in stream for message in partition]


def _random_columns(rng: random.Random, keys: int, nulls: float) -> dict[str, Any]:
    columns: dict[str, Any] = {
        "card_id": f"card-{int(keys * rng.random() ** 2)}",
        "merchant_id": f"m{rng.randrange(20)}",
        "amount": round(rng.lognormvariate(3, 2), 2) * rng.choice((1, 1, 1, -1)),
        "quantity": rng.randrange(-3, 10),
        "online": rng.random() < 0.5,
        "status": rng.choice(STATUSES[:-1]),
    }
    return {name: None if rng.random() < nulls else value for name, value in columns.items()}
