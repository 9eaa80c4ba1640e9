"""When a view's watermark may be taken back, and what its state is then.

A watermark is monotone: windows behind it were emitted, tiles behind its line were rolled up or dropped, revisions
there were forgotten. It can be taken back only over a span of which all that is void: where no accepted event lies
within the reach of any window that ends in it. Then a shard at the lower watermark holds what it would hold had the
watermark never gone on, and windows after it are emitted in their turn, once. Those that were final before it stay so.

A partition's largest event time is part of its fence, a function of the log: it is never touched, so a watermark that
the partitions themselves have reached would be there again with the next commit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from featurestore.batches import NO_TIME
from featurestore.compile.view import CompiledView
from featurestore.durations import US_PER_UNIT, format_duration, format_instant
from featurestore.errors import StoreError
from featurestore.shard.protocol import ViewState


@dataclass(frozen=True)
class ViewTimes:
    """A view's times over all shards, µs. watermark_us, line_us: the furthest of any shard.

    partitions: largest event time of each partition of the topic's present generation, NO_TIME before any event.
    least_us: watermark that the partitions give together, those without an event aside.
    """

    watermark_us: int
    line_us: int
    partitions: Mapping[int, int]
    least_us: int

    @property
    def slowest(self) -> int | None:
        """The partition with the least event time, None before any event."""
        known = {partition: time for partition, time in self.partitions.items() if time != NO_TIME}
        return min(known, key=lambda partition: (known[partition], partition)) if known else None


def view_times(compiled: CompiledView, states: Sequence[ViewState]) -> ViewTimes:
    """The times of a view from its states, one a shard."""
    partitions: dict[int, int] = {}
    for state in states:
        # A generation's fences are added behind those of the ones before it.
        generation = next(reversed(state.fences), "").rpartition("/")[0]
        for key, fence in state.fences.items():
            owner, _, partition = key.rpartition("/")
            if owner == generation:
                number = int(partition)
                partitions[number] = max(partitions.get(number, NO_TIME), fence.max_event_time_us)
    times = [time for time in partitions.values() if time != NO_TIME]
    return ViewTimes(
        max((state.watermark_us for state in states), default=NO_TIME),
        max((state.line_us for state in states), default=NO_TIME),
        dict(sorted(partitions.items())),
        min(times) - compiled.max_out_of_orderness_us if times else NO_TIME,
    )


def reach_us(compiled: CompiledView) -> int:
    """How long after an event a window may end that holds it, its tiles rounded out; lifetime features aside."""
    return compiled.retention_us - compiled.allowed_lateness_us


def check_ahead(compiled: CompiledView, times: ViewTimes, to_us: int) -> None:
    """Raise StoreError, with the numbers, when the watermark is not ahead of `to_us` and of the partitions."""
    name = compiled.name
    if to_us >= times.watermark_us:
        told = "has none" if times.watermark_us == NO_TIME else f"is at {format_instant(times.watermark_us)}"
        raise StoreError(
            f"view '{name}': its watermark can't be taken back to {format_instant(to_us)}: it {told}",
            hint=f"see featurestore watermark show {name}",
        )
    if to_us < times.least_us:
        raise StoreError(
            f"view '{name}': its partitions have come to {format_instant(times.least_us)} together (partition "
            f"{times.slowest} holds them back): a watermark of {format_instant(to_us)} would be there again with the "
            "next commit",
            hint=f"take it back to {format_instant(times.least_us)} at the earliest"
            if times.least_us < times.watermark_us
            else "the partitions' times are part of the log and can't be taken back",
        )


def check_void(compiled: CompiledView, times: ViewTimes, to_us: int, newest_us: int) -> None:
    """Raise StoreError, with the numbers, when a window between `to_us` and the watermark can hold an event.

    newest_us: largest accepted event time of the source below the watermark, NO_TIME when there is none.
    """
    if newest_us == NO_TIME or newest_us + reach_us(compiled) < to_us:
        return
    second = US_PER_UNIT["s"]
    first_us = (newest_us + reach_us(compiled)) // second * second + second
    name = compiled.name
    raise StoreError(
        f"view '{name}': an event of {format_instant(newest_us)} lies before the watermark "
        f"{format_instant(times.watermark_us)}, and windows that end up to {format_duration(reach_us(compiled))} after "
        "it are emitted, their tiles rolled up: they can't be opened again",
        hint=f"take it back to {format_instant(first_us)} at the earliest"
        if first_us < times.watermark_us
        else f"the wrong event is too near to the others: compute the view anew: featurestore view reset {name}",
    )


def reset_state(state: ViewState, to_us: int) -> ViewState | None:
    """The state of a shard at the lower watermark, None when it is not above it.

    Call `check_ahead` and `check_void` before. Windows that were final and end at or before `to_us` stay
    final: what is left of their tiles was rolled up. Those that `--close-windows` emitted stay emitted.
    """
    if state.watermark_us <= to_us:
        return None
    return msgspec.structs.replace(state, watermark_us=to_us, line_us=min(state.line_us, to_us))
