"""The seam between the shard processor and a store: plain data, and the contract of a store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
import polars as pl

from featurestore.batches import NO_TIME, PartitionProgress
from featurestore.compile.bind import EntityGroup
from featurestore.compile.view import CompiledView
from featurestore.compute.tiles import TileTable

KEY = "_key"
"""Column of the encoded entity key in routed frames."""


@dataclass(frozen=True)
class ShardBatch:
    """What one source poll means to one shard: its events, and how far each partition has come.

    slices: for each entity group the shard's events, with the columns `_key` (String, null when a join key is null),
    `event_time` (Int64 µs), `_partition`, `_offset`, `_partition_watermark` and the views' inputs. progress follows the
    events it covers; a partition without events here is there too.
    """

    slices: dict[EntityGroup, pl.DataFrame]
    progress: tuple[PartitionProgress, ...]


class Fence(msgspec.Struct, frozen=True, array_like=True):
    """How far a view has applied a partition: everything below next_offset, whose largest event time is the other."""

    next_offset: int
    max_event_time_us: int = NO_TIME


class ViewCounts(msgspec.Struct, frozen=True, array_like=True):
    """Events of a view in a shard since its start: applied, filtered and null_key add up to what was archived since
    then, over all shards. beyond_retention: of the applied ones; entities: rows ever made."""

    applied: int = 0
    filtered: int = 0
    null_key: int = 0
    beyond_retention: int = 0
    entities: int = 0

    def plus(self, other: ViewCounts) -> ViewCounts:
        """The sums, field by field."""
        return ViewCounts(
            self.applied + other.applied,
            self.filtered + other.filtered,
            self.null_key + other.null_key,
            self.beyond_retention + other.beyond_retention,
            self.entities + other.entities,
        )


class ViewState(msgspec.Struct, frozen=True):
    """What a shard remembers of a view version besides its rows.

    fences: "<generation>/<partition>" to fence. watermark_us: of the view, monotone. closed_us: by dataset name, how
    far `--close-windows` has emitted beyond the watermark. line_us: the correction line: windows that end at or before
    it are final. It never goes back, also when the allowed lateness is raised: the tiles behind it were rolled up.
    """

    fences: dict[str, Fence] = {}
    watermark_us: int = NO_TIME
    closed_us: dict[str, int] = {}
    counts: ViewCounts = ViewCounts()
    line_us: int = NO_TIME

    def fence(self, generation: str, partition: int) -> Fence | None:
        """The fence of a partition, None when the view has never seen it."""
        return self.fences.get(fence_key(generation, partition))


def fence_key(generation: str, partition: int) -> str:
    """Key of `ViewState.fences`."""
    return f"{generation}/{partition}"


@dataclass(frozen=True)
class RowSet:
    """Rows of some entities. tiles.entity numbers them as asked; newest_us: newest event time, NO_TIME if no row."""

    tiles: TileTable
    newest_us: np.ndarray


@dataclass(frozen=True)
class RowWrite:
    """Rows to replace. keys: encoded entity keys, in the order that tiles.entity numbers them."""

    view: CompiledView
    keys: Sequence[str]
    rows: RowSet


@dataclass(frozen=True)
class PendingWrite:
    """Entities first touched in a pane that is still to be emitted."""

    view: CompiledView
    dataset_index: int
    pane_us: int
    keys: Sequence[str]


@dataclass(frozen=True)
class PendingClear:
    """Panes up to `pane_us` (inclusive) need no index any more."""

    view: CompiledView
    dataset_index: int
    pane_us: int


@dataclass(frozen=True)
class RevisionWrite:
    """How often windows were corrected. ends_us, keys, revisions: of one length."""

    view: CompiledView
    dataset_index: int
    ends_us: Sequence[int]
    keys: Sequence[str]
    revisions: Sequence[int]


@dataclass(frozen=True)
class RevisionClear:
    """Windows that end at or before `end_us` can't be corrected any more."""

    view: CompiledView
    dataset_index: int
    end_us: int


@dataclass(frozen=True)
class Emitted:
    """Snapshot rows of one dataset for the outbox: join keys, features, window_start?, window_end, revision."""

    view: CompiledView
    dataset: str
    rows: pl.DataFrame


@dataclass
class Commit:
    """Everything one commit of a shard writes, all or none."""

    states: list[tuple[CompiledView, ViewState]] = field(default_factory=list)
    rows: list[RowWrite] = field(default_factory=list)
    pending: list[PendingWrite] = field(default_factory=list)
    pending_clear: list[PendingClear] = field(default_factory=list)
    revisions: list[RevisionWrite] = field(default_factory=list)
    revision_clear: list[RevisionClear] = field(default_factory=list)
    emitted: list[Emitted] = field(default_factory=list)


class ShardStore(Protocol):
    """A shard's durable memory. One thread at a time; reads see all earlier writes."""

    def read_state(self, view: CompiledView) -> ViewState | None:
        """The view's state, None when the view has never run here."""

    def read_rows(self, view: CompiledView, keys: Sequence[str]) -> RowSet:
        """Rows of the entities; keys sorted by their UTF-8 bytes and distinct. An entity without a row has no tiles."""

    def read_pending(
        self, view: CompiledView, dataset_index: int, from_us: int, to_us: int
    ) -> list[tuple[int, list[str]]]:
        """(pane, keys) of entities waiting for emission whose pane lies in [from_us, to_us]; both inclusive."""

    def read_revisions(
        self, view: CompiledView, dataset_index: int, ends_us: Sequence[int], keys: Sequence[str]
    ) -> list[int]:
        """Last revision written for each (window end, key); 0 where none was."""

    def write(self, commit: Commit) -> None:
        """Make one commit durable, all or none; its emitted rows become outbox entries in the same write.

        After a crash the processor may bring the same events again; their fences then skip them. Never called with an
        empty commit, nor after `close`. Raises StoreFullError when the disk is full: nothing was written.
        """
