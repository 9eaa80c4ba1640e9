"""What a view makes of a file of events: its own expressions, and the kernels of the point-in-time join, offline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import polars as pl

from featurestore.batches import EVENT_TIME
from featurestore.compile.bind import BoundView
from featurestore.compile.expressions import derived, filtered
from featurestore.compile.keys import encode_entities, encoded_key
from featurestore.compute.slots import Slot
from featurestore.sources.event_file import EventFile
from featurestore.training.events import ENTITY, GENERATION, EventTable, build_tables
from featurestore.training.join import join_view

_KEY = "_key"


class GoldenView:
    """A view over the accepted events of a file."""

    def __init__(self, bound: BoundView, events: EventFile) -> None:
        self._view = view = bound.compiled
        rows = events.accepted
        # As a read of the newest state: the first instant at which every event counts.
        self.newest_us: int = -1 if rows.is_empty() else int(rows[EVENT_TIME].max())  # type: ignore[arg-type]
        if bound.where is not None:
            rows = filtered(rows, bound.where)
        if bound.derive:
            rows = derived(rows, bound.derive)
        rows = rows.with_columns(encoded_key(view.spec.join_keys).alias(_KEY)).filter(pl.col(_KEY).is_not_null())
        self.keys = rows[_KEY].unique(maintain_order=True).to_list()
        self._number = {key: number for number, key in enumerate(self.keys)}
        entity = pl.Series(ENTITY, [self._number[key] for key in rows[_KEY].to_list()], dtype=pl.Int64)
        rows = rows.with_columns(entity, pl.lit(0, dtype=pl.Int32).alias(GENERATION))
        self._tables: list[EventTable] = []
        if rows.height:
            self._tables = build_tables(rows, len(self.keys), self._slots())

    def values(self, keys: Sequence[str | None], as_of_us: Sequence[int]) -> pl.DataFrame:
        """All features of each (encoded key, instant), shape (n, features)."""
        entity = np.array([-1 if key is None else self._number.get(key, -1) for key in keys], dtype=np.int64)
        return join_view(self._view, list(self._view.features), self._tables, entity, np.array(as_of_us, np.int64))

    def newest_values(self) -> pl.DataFrame:
        """All features of every entity of the file, just after its newest event."""
        return self.values(self.keys, [self.newest_us + 1] * len(self.keys))

    def encoded(self, entity: Mapping[str, object]) -> str | None:
        """An entity's key. Raises MalformedRequestError for a value of another type."""
        return encode_entities(self._view.spec.join_keys, {name: [value] for name, value in entity.items()})[0]

    def _slots(self) -> tuple[Slot, ...]:
        inputs = {spec.name: spec.input_dtype or "" for spec in self._view.spec.features}
        found: dict[str, Slot] = {}
        for feature in self._view.features.values():
            slots = feature.aggregate.slots(feature.column, inputs[feature.name])
            found |= {slot.name: slot for slot in slots}
        return tuple(found.values())
