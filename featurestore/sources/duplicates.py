"""Find messages that a producer sent twice: an event id that its partition has brought already.

An event is a duplicate if an accepted event before it in its partition has the same id and is not older than
`dedupe_within` before the largest event time so far. That depends on the log alone; duplicates move no watermark, so
that the accepted events, which the archive keeps, are all that a restart must know.
"""

from __future__ import annotations

from itertools import compress

import numpy as np
import polars as pl

from featurestore.batches import NO_TIME
from featurestore.definitions.specs import SourceSpec
from featurestore.sources.lateness import max_before, too_late, watermark_before

ROUNDS = 8
"""Tries to settle a batch as a whole; two are enough unless duplicates carry other event times than the first ones."""

KEEP_MIN = 100_000
"""Fewer ids are not worth a look whether they can be forgotten."""


class SeenIds:
    """Ids of one partition's accepted events, each with its event time.

    spec: with `dedupe_by`. archived: what came before, columns `id` and `us` (Int64 µs), or None. An id is kept until
    its time lies `dedupe_within` behind; the memory is twice that at most, some 200 bytes for a text of 36 characters.
    """

    def __init__(self, spec: SourceSpec, archived: pl.DataFrame | None = None) -> None:
        self._spec = spec
        self._times: dict[object, int] = {}
        if archived is not None:
            self._times = dict(zip(archived["id"].to_list(), archived["us"].to_list(), strict=True))
        self._look_at = max(KEEP_MIN, 2 * len(self._times))

    def __len__(self) -> int:
        return len(self._times)

    def find(self, ids: pl.Series, event_us: np.ndarray, newest_us: int) -> np.ndarray:
        """Which events are duplicates, boolean, shape (n,); the accepted ones are remembered.

        ids, event_us: of the partition's next valid events in offset order, int64 µs, shape (n,); a null id is like no
        other. newest_us: the partition's largest event time before them, NO_TIME if none.
        """
        cells = ids.to_list()
        known = list(map(self._times.get, cells))
        duplicate: np.ndarray | None = np.zeros(len(cells), dtype=bool)
        if known.count(None) < len(cells) or len(set(cells)) < len(cells):
            known_us = pl.Series(known, dtype=pl.Int64).fill_null(NO_TIME).to_numpy()
            duplicate = self._settle(ids, known_us, event_us, newest_us)
        if duplicate is None:
            half = len(cells) // 2
            first = self.find(ids[:half], event_us[:half], newest_us)
            newest_us = max(newest_us, int(event_us[:half][~first].max(initial=NO_TIME)))
            return np.concatenate([first, self.find(ids[half:], event_us[half:], newest_us)])
        self._remember(cells, event_us, duplicate, newest_us)
        return duplicate

    def _settle(self, ids: pl.Series, known_us: np.ndarray, event_us: np.ndarray, newest_us: int) -> np.ndarray | None:
        """The duplicates of a batch, None when it takes too many rounds.

        Whether a row is one depends on the rows before it alone. So a guess that its own consequences confirm is right,
        and each round makes at least one row more right than the last one.
        """
        suspect = (known_us != NO_TIME) | (ids.is_duplicated() & ids.is_not_null()).to_numpy()
        repeated = (~ids.is_first_distinct() & ids.is_not_null()).to_numpy()
        duplicate = (known_us != NO_TIME) | repeated
        of_suspects = ids.filter(pl.Series(suspect)).alias("id").to_frame()
        for _ in range(ROUNDS):
            newest, accepted = self._accepted(event_us, duplicate, newest_us)
            times = np.where(accepted, event_us, NO_TIME)[suspect]
            earlier = of_suspects.with_columns(pl.Series("us", times)).select(
                pl.col("us").cum_max().shift(1, fill_value=NO_TIME).over("id")
            )
            same_id = np.full(len(event_us), NO_TIME)
            same_id[suspect] = np.maximum(known_us[suspect], earlier["us"].to_numpy())
            oldest = watermark_before(newest, self._spec.dedupe_within_us)
            found: np.ndarray = (same_id != NO_TIME) & (same_id >= oldest)
            if np.array_equal(found, duplicate):
                return found
            duplicate = found
        return None

    def _accepted(self, event_us: np.ndarray, duplicate: np.ndarray, newest_us: int) -> tuple[np.ndarray, np.ndarray]:
        """The partition's largest event time before each row, and which rows are accepted."""
        newest = max_before(np.where(duplicate, NO_TIME, event_us), newest_us)
        watermark = watermark_before(newest, self._spec.max_out_of_orderness_us)
        return newest, ~duplicate & ~too_late(event_us, watermark, self._spec.allowed_lateness_us)

    def _remember(self, cells: list[object], event_us: np.ndarray, duplicate: np.ndarray, newest_us: int) -> None:
        newest, accepted = self._accepted(event_us, duplicate, newest_us)
        # Of an id that is there again the last time is the largest: an earlier one lies beyond the horizon, and the
        # horizon reaches at least as far back as an event may be late.
        self._times.update(zip(compress(cells, accepted.tolist()), event_us[accepted].tolist()))
        self._times.pop(None, None)
        if len(self._times) > self._look_at:
            line = max(int(newest[-1]), newest_us) - self._spec.dedupe_within_us
            kept = np.fromiter(self._times.values(), dtype=np.int64, count=len(self._times)) >= line
            self._times = dict(compress(self._times.items(), kept.tolist()))
            self._look_at = max(KEEP_MIN, 2 * len(self._times))
