"""One shard of the online store in RocksDB: the protocol of `shard/protocol.py`, and the outbox."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import polars as pl
import rocksdict

from featurestore.compile.view import CompiledView
from featurestore.online import layout
from featurestore.online.rocks import RocksMemory, open_primary, rocks_errors, scan
from featurestore.online.rows import RowDecoder, encode_rows
from featurestore.online.synced import Sizes, growing_sizes
from featurestore.shard.protocol import Commit, RowSet, ViewState

_STATE_DECODER = msgspec.msgpack.Decoder(ViewState)
_KEYS_DECODER = msgspec.msgpack.Decoder(list[str])


class _EntryHead(msgspec.Struct, frozen=True, array_like=True):
    view: str
    version: int
    window: str


@dataclass(frozen=True)
class OutboxItem:
    """Emitted rows that are durable in the shard and still to be written to the offline store."""

    sequence: int
    view: str
    version: int
    window: str
    rows: pl.DataFrame


def utc_now() -> datetime:
    """The wall clock, UTC."""
    return datetime.now(timezone.utc)


class RocksShardStore:
    """A shard opened for writing. fsync: sync the write-ahead log at every commit, for the case of a power cut."""

    def __init__(
        self, path: Path, memory: RocksMemory, *, fsync: bool = False, clock: Callable[[], datetime] = utc_now
    ) -> None:
        self._path = path
        self._db = open_primary(path, memory)
        self._options = rocksdict.WriteOptions()
        self._options.sync = fsync
        self._clock = clock
        self._decoders: dict[tuple[int, int], RowDecoder] = {}
        self._outbox = self._load_outbox()
        (meta,) = self._get([layout.META])
        self._next_sequence, self._next_run = (0, 0) if meta is None else layout.META_VALUE.unpack(meta)

    def read_state(self, view: CompiledView) -> ViewState | None:
        """See `ShardStore.read_state`."""
        (value,) = self._get([layout.state_key(view)])
        return None if value is None else _STATE_DECODER.decode(value)

    def read_rows(self, view: CompiledView, keys: Sequence[str]) -> RowSet:
        """See `ShardStore.read_rows`."""
        prefix = layout.row_prefix(view)
        decoder = self._decoders.get((view.view_id, view.version))
        if decoder is None:
            decoder = self._decoders[view.view_id, view.version] = RowDecoder(view)
        return decoder.decode(self._get([prefix + key.encode() for key in keys]))

    def read_pending(
        self, view: CompiledView, dataset_index: int, from_us: int, to_us: int
    ) -> list[tuple[int, list[str]]]:
        """See `ShardStore.read_pending`."""
        first = layout.pending_key(view, dataset_index, from_us)
        last = layout.pending_key(view, dataset_index, to_us)
        return [
            (layout.time_of(key), _KEYS_DECODER.decode(value)) for key, value in self._scan(first, last + b"\xff" * 9)
        ]

    def read_revisions(
        self, view: CompiledView, dataset_index: int, ends_us: Sequence[int], keys: Sequence[str]
    ) -> list[int]:
        """See `ShardStore.read_revisions`."""
        wanted = [
            layout.revision_key(view, dataset_index, end) + key.encode() for end, key in zip(ends_us, keys, strict=True)
        ]
        return [0 if value is None else int.from_bytes(value, "big") for value in self._get(wanted)]

    def write(self, commit: Commit) -> None:
        """See `ShardStore.write`."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        for view, state in commit.states:
            batch.put(layout.state_key(view), msgspec.msgpack.encode(state))
        for write in commit.rows:
            prefix = layout.row_prefix(write.view)
            for key, value in zip(write.keys, encode_rows(write.view, write.rows), strict=True):
                batch.put(prefix + key.encode(), value)
        for clear in commit.pending_clear:
            first = layout.pending_key(clear.view, clear.dataset_index, -(2**63))
            last = layout.pending_key(clear.view, clear.dataset_index, clear.pane_us)
            for place, _ in self._scan(first, last + b"\xff" * 9):
                batch.delete(place)
        for pending in commit.pending:
            stem = layout.pending_key(pending.view, pending.dataset_index, pending.pane_us)
            batch.put(stem + self._next_run.to_bytes(8, "big"), msgspec.msgpack.encode(pending.keys))
            self._next_run += 1
        for old in commit.revision_clear:
            first = layout.revision_key(old.view, old.dataset_index, -(2**63))
            last = layout.revision_key(old.view, old.dataset_index, old.end_us + 1)
            for place, _ in self._scan(first, last):
                batch.delete(place)
        for revised in commit.revisions:
            for end, name, revision in zip(revised.ends_us, revised.keys, revised.revisions, strict=True):
                place = layout.revision_key(revised.view, revised.dataset_index, end) + name.encode()
                batch.put(place, revision.to_bytes(4, "big"))
        items = self._outbox_items(commit, batch)
        if items or commit.pending:
            batch.put(layout.META, layout.META_VALUE.pack(self._next_sequence + len(items), self._next_run))
        with rocks_errors(self._path):
            self._db.write(batch, self._options)
        self._next_sequence += len(items)
        self._outbox.extend(items)

    def _outbox_items(self, commit: Commit, batch: rocksdict.WriteBatch) -> list[OutboxItem]:
        items: list[OutboxItem] = []
        created = pl.lit(self._clock()).cast(pl.Datetime("us", "UTC")).alias("created_timestamp")
        for emitted in commit.emitted:
            sequence = self._next_sequence + len(items)
            rows = emitted.rows.with_columns(created)
            item = OutboxItem(sequence, emitted.view.name, emitted.view.version, emitted.dataset, rows)
            buffer = io.BytesIO()
            head = msgspec.msgpack.encode(_EntryHead(item.view, item.version, item.window))
            buffer.write(len(head).to_bytes(4, "big") + head)
            rows.write_ipc_stream(buffer)
            batch.put(layout.outbox_key(sequence), buffer.getvalue())
            items.append(item)
        return items

    def take_outbox(self) -> list[OutboxItem]:
        """Entries not yet handed out since the store was opened, in order; they stay durable until dropped."""
        items, self._outbox = self._outbox, []
        return items

    def drop_outbox(self, sequences: Sequence[int]) -> None:
        """Forget entries whose rows are durable in the offline store. Dropping one twice changes nothing."""
        batch = rocksdict.WriteBatch(raw_mode=True)
        for sequence in sequences:
            batch.delete(layout.outbox_key(sequence))
        with rocks_errors(self._path):
            self._db.write(batch, self._options)
        dropped = set(sequences)
        self._outbox = [item for item in self._outbox if item.sequence not in dropped]

    def forget(self, prefixes: Iterable[bytes]) -> None:
        """Remove all entries whose keys begin with one of these, in one write, and give their room back."""
        spans = [(prefix, layout.after_prefix(prefix)) for prefix in prefixes]
        batch = rocksdict.WriteBatch(raw_mode=True)
        for first, after in spans:
            batch.delete_range(first, after)
        with rocks_errors(self._path):
            self._db.write(batch, self._options)
            for first, after in spans:
                self._db.compact_range(first, after)

    def sync(self) -> None:
        """Make everything written so far survive a power cut."""
        with rocks_errors(self._path):
            self._db.flush_wal(True)

    def growing_sizes(self) -> Sizes:
        """How long the files are that grow; see `synced.py`."""
        return growing_sizes(self._path)

    def close(self) -> None:
        """Release the shard; the store can't be used any more."""
        self._db.close()

    def _get(self, keys: list[bytes]) -> list[bytes | None]:
        with rocks_errors(self._path):
            # rocksdict's stub wants a list of any key type, which is invariant.
            values: list[bytes | None] = self._db.get(keys)  # type: ignore[arg-type, assignment]
        return values

    def _scan(self, first: bytes, last: bytes) -> list[tuple[bytes, bytes]]:
        """Entries with first <= key < last."""
        with rocks_errors(self._path):
            return list(scan(self._db, first, last))

    def _load_outbox(self) -> list[OutboxItem]:
        items = []
        for key, value in self._scan(layout.outbox_key(0), layout.outbox_key(2**64 - 1)):
            size = int.from_bytes(value[:4], "big")
            head = msgspec.msgpack.decode(value[4 : 4 + size], type=_EntryHead)
            rows = pl.read_ipc_stream(io.BytesIO(value[4 + size :]))
            items.append(OutboxItem(layout.sequence_of(key), head.view, head.version, head.window, rows))
        return items
