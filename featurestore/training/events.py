"""A view's archived events in the order in which a join reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl

from featurestore.batches import ARRIVAL_TIME, EVENT_TIME, OFFSET, PARTITION
from featurestore.compute.blocks import BlockTree, as_numbers, lift_events
from featurestore.compute.slots import Slot
from featurestore.compute.tiles import TileTable
from featurestore.compute.windows import TileIndex

ENTITY = "_entity"
GENERATION = "_generation"
NEWEST = Slot("max", "_newest")
"""Of a range of events, the newest event time."""

FIRST_DELAY_US = 1_000_000
DELAY_FACTOR = 4


@dataclass(frozen=True)
class EventTable:
    """Events sorted by entity, event time and place in the log, ready to be merged by ranges.

    time_us, arrival_us: int64, shape (n,). texts: of all tables together, by slot name; the slots hold their numbers.
    above_us, most_us: every event arrived later than the one and at most the other after it happened.
    """

    index: TileIndex
    time_us: np.ndarray
    arrival_us: np.ndarray
    tree: BlockTree
    texts: Mapping[str, pl.Series]
    above_us: int
    most_us: int


def build_tables(
    events: pl.DataFrame, entities: int, slots: Sequence[Slot], *, by_delay: bool = False
) -> list[EventTable]:
    """Sort events and merge their blocks.

    events: `_entity` (Int64 below `entities`), `event_time` and `arrival_time` (Int64 µs), `_generation`, `_partition`,
    `_offset`, and the slots' columns. The order of the rows does not matter.
    by_delay: one table for each class of delays (arrival after event time): up to 1 s, 4 s, 16 s, …, for a join that
    asks what had arrived; else one for all.
    """
    events = events[_order(events, entities)]
    numbers = np.arange(events.height, dtype=np.int64)
    if not by_delay or events.is_empty():
        return [_table(events, numbers, events, entities, slots)]
    delay = (events[ARRIVAL_TIME] - events[EVENT_TIME]).to_numpy()
    tables = []
    above, most = int(delay.min()) - 1, FIRST_DELAY_US
    while above < int(delay.max()):
        members = np.flatnonzero((delay > above) & (delay <= most))
        if len(members):
            tables.append(_table(events[members], members, events, entities, slots))
        above, most = max(above, most), most * DELAY_FACTOR
    return tables


def _table(
    events: pl.DataFrame, numbers: np.ndarray, every: pl.DataFrame, entities: int, slots: Sequence[Slot]
) -> EventTable:
    time, arrival = events[EVENT_TIME].to_numpy(), events[ARRIVAL_TIME].to_numpy()
    fields = {**lift_events(events, slots, numbers), NEWEST.name: time}
    delay = arrival - time
    return EventTable(
        TileIndex(TileTable(events[ENTITY].to_numpy(), time, np.empty(0, dtype=np.int64), fields), entities),
        time,
        arrival,
        BlockTree((*as_numbers(slots), NEWEST), fields, events.height),
        {slot.name: every[slot.column] for slot in slots if slot.dtype == "String"},
        int(delay.min()) - 1 if len(delay) else 0,
        int(delay.max()) if len(delay) else 0,
    )


def _order(events: pl.DataFrame, entities: int) -> np.ndarray:
    """The rows by (entity, event time, generation, partition, offset): one order, whatever the files looked like."""
    entity, time = events[ENTITY].to_numpy(), events[EVENT_TIME].to_numpy()
    if not len(time):
        return np.empty(0, dtype=np.int64)
    low = int(time.min())
    span = int(time.max()) - low + 1
    if span * entities < 2**62:
        code = entity * span + (time - low)
    else:
        ranks = np.unique(time)
        code = entity * len(ranks) + np.searchsorted(ranks, time)
    order = pl.Series(code).arg_sort().to_numpy().astype(np.int64)
    ordered = code[order]
    same = ordered[1:] == ordered[:-1]
    if same.any():
        # Few events share entity and time: only these are sorted by their place in the log.
        at = np.flatnonzero(np.append(same, False) | np.insert(same, 0, False))
        rows = order[at]
        place = [events[name].to_numpy()[rows] for name in (OFFSET, PARTITION, GENERATION)]
        order[at] = rows[np.lexsort((*place, code[rows]))]
    return order
