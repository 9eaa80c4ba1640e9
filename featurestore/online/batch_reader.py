"""Reads of a batch view's online store: of each entity the newest row, when it lies before the instant asked for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path

from featurestore.batches import NO_TIME
from featurestore.compile.batch import CompiledBatchView
from featurestore.definitions.specs import Scalar
from featurestore.online import layout
from featurestore.online.batch_rows import times_of, values_of
from featurestore.online.batch_store import BatchState, decode_state
from featurestore.online.reader import FeatureColumn, OnlineReader, Status, ViewRead


class BatchReader:
    """Reads one batch view's store. Safe for several threads; `refresh` may run beside reads.

    Raises StoreError when the store was never made (nothing was materialized yet).
    """

    def __init__(self, data_dir: Path, store: str) -> None:
        self._rows = OnlineReader(data_dir, store)
        self.incarnation = self._rows.incarnation

    def refresh(self) -> None:
        """Catch up with a materialization under way."""
        self._rows.refresh()

    def state(self, view: CompiledBatchView) -> BatchState:
        """How far the view is materialized."""
        return decode_state(self._rows.get_value(layout.state_key(view)))

    def latest_us(self, view: CompiledBatchView) -> int:
        """Just after the newest row of the view; NO_TIME before any."""
        newest = self.state(view).newest_us
        return newest if newest == NO_TIME else newest + 1

    def read(
        self, view: CompiledBatchView, keys: Sequence[str | None], features: Sequence[str], as_of_us: int
    ) -> ViewRead:
        """Values of `features` for encoded entity keys (None: a null join key, never found) as of `as_of_us`.

        Only the newest row of an entity is stored. One that is not before `as_of_us` is not known then, and neither is
        the one before it: NOT_FOUND, never a value from after the instant.
        """
        order = list(view.features)
        positions = [order.index(name) for name in features]
        oldest_us = as_of_us - view.spec.ttl_us if view.spec.ttl_us else NO_TIME
        defaults: list[Scalar] = [view.features[name].default for name in features]
        nulls: list[Scalar] = [None] * len(features)
        times: list[int] = []
        rows: list[tuple[list[Scalar], Status | None]] = []
        for row in self._rows.fetch(view, keys):
            event_us = as_of_us if row is None else times_of(row)[0]
            if row is None or event_us >= as_of_us:
                times.append(0)
                rows.append((defaults, "NOT_FOUND"))
            elif event_us < oldest_us:
                times.append(event_us)
                rows.append((nulls, "OUTSIDE_MAX_AGE"))
            else:
                times.append(event_us)
                values = values_of(row)
                rows.append(([values[position] for position in positions], None))
        columns = {name: _column(rows, index) for index, name in enumerate(features)}
        return ViewRead(columns, times)

    def keys(self, view: CompiledBatchView) -> list[Iterator[bytes]]:
        """See `OnlineReader.keys`."""
        return self._rows.keys(view)

    def row_bytes(self, view: CompiledBatchView, most: int) -> tuple[int, int]:
        """Rows, at most so many, and the bytes of their keys and values."""
        encoded = list(islice(chain.from_iterable(self._rows.keys(view)), most))
        values = self._rows.fetch(view, [key.decode() for key in encoded])
        prefix = len(layout.row_prefix(view))
        sizes = (prefix + len(key) + len(value or b"") for key, value in zip(encoded, values, strict=True))
        return len(encoded), sum(sizes)

    def close(self) -> None:
        """Close the store."""
        self._rows.close()


def _column(rows: Sequence[tuple[list[Scalar], Status | None]], index: int) -> FeatureColumn:
    values = [row[index] for row, _ in rows]
    statuses: list[Status] = [
        status or ("NULL_VALUE" if value is None else "PRESENT")
        for value, (_, status) in zip(values, rows, strict=True)
    ]
    return FeatureColumn(values, statuses)
