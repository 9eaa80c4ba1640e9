"""Snapshot files: rows from the shards' outboxes, each in exactly one file, whatever crashes.

An outbox entry is durable in its shard before its rows come here, and is dropped there after they are in a
file. One write:

    1. the caller makes the shards' logs durable             the entries survive a power cut 2. an intent is
    written                                  names the files to come and the entries that they cover 3. the
    files are written under hidden names, fsynced, renamed, and their folders fsynced 4. the caller drops
    the entries from the shards 5. the intent is renamed to `….written`                  and removed at the
    next write, after step 1 made the drops durable

After a crash an intent whose files all exist is redone: its entries are dropped before anything is emitted,
for a file is whole once it has its name. An intent of which a file is missing is undone: its files are
removed; since step 4 comes after step 3 none of its entries was dropped, so their rows are written again. A
`.written` intent is always redone: someone may have removed its files since. An entry without an intent was
never in a file. So no row is lost and none is written twice; only readers that look between a crash and the
next start may see the rows of an intent that is then undone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

import msgspec
import polars as pl
import pyarrow as pa

from featurestore.errors import StoreFormatError, StoreFullError
from featurestore.offline.atomic import (
    CrashPoint,
    no_crash,
    publish,
    remove_durably,
    remove_temporaries,
    sealed,
    sync_folders,
    unsealed,
    write_atomically,
    write_temporary,
)
from featurestore.offline.layout import SnapshotDataset, snapshot_dir, snapshot_name, temporary_path
from featurestore.offline.tables import write_frame

__all__ = ["OutboxEntry", "SnapshotDataset", "SnapshotWriter", "WrittenEntries", "finish_recovery", "recover"]

FORMAT_VERSION = 1
WINDOW_END = "window_end"

WrittenEntries = dict[int, list[int]]
"""By shard, the sequences of outbox entries whose rows are durable in files, ascending."""

_INTENT = ".intent.json"
_WRITTEN = ".written.json"


@dataclass(frozen=True)
class OutboxEntry:
    """Snapshot rows that one shard emitted for one dataset.

    sequence: of the shard's outbox, never used twice. table: join keys, features, window_start (tumbling
    and hopping), window_end, revision, created_timestamp.
    """

    shard: int
    sequence: int
    dataset: SnapshotDataset
    table: pa.Table


class _Intent(msgspec.Struct, frozen=True):
    """files: targets, relative to the root. covered: by shard, inclusive ranges of sequences."""

    format_version: int
    files: list[str]
    covered: dict[int, list[tuple[int, int]]]


class SnapshotWriter:
    """Gathers the outboxes of a process's shards and writes one file for each dataset at a time.

    root: the offline store. intent_dir: this process's folder for intents; `recover` must have been through
    it. writer_id: unique for each store incarnation, run and process. min_rows, max_age_s: a write is due
    when so many rows have gathered or the oldest is so old. clock: monotonic seconds, the one that gives
    `due` its argument.
    """

    def __init__(
        self,
        root: Path,
        intent_dir: Path,
        writer_id: str,
        min_rows: int = 20_000,
        max_age_s: float = 5.0,
        *,
        clock: Callable[[], float] = time.monotonic,
        crash_point: CrashPoint = no_crash,
    ) -> None:
        assert not _intent_paths(intent_dir), f"intents of an earlier run in {intent_dir}: recover() comes first"
        self._root = root
        self._intent_dir = intent_dir
        self._writer_id = writer_id
        self._min_rows = min_rows
        self._max_age_s = max_age_s
        self._clock = clock
        self._crash_point = crash_point
        self._entries: list[OutboxEntry] = []
        self._rows = 0
        self._oldest_at = 0.0
        self._sequence = 0
        self._intent: Path | None = None

    def add(self, entries: Sequence[OutboxEntry]) -> None:
        """Take entries over, each once. They must be in their shards' stores already."""
        if entries and not self._entries:
            self._oldest_at = self._clock()
        self._entries.extend(entries)
        self._rows += sum(entry.table.num_rows for entry in entries)

    @property
    def holds_rows(self) -> bool:
        """Whether a write would write anything."""
        return bool(self._entries)

    def due(self, now: float) -> bool:
        """Whether enough rows have gathered, or waited long enough, for a write."""
        if not self._entries:
            return False
        return self._rows >= self._min_rows or now - self._oldest_at >= self._max_age_s

    def write(self) -> WrittenEntries:
        """Write all that was gathered, and say which entries the caller must drop before it calls `done`.

        Before: the caller has made the write-ahead logs of all its shards durable, which covers the entries
        added here and the drops of the write before. After: it drops the entries, then calls `done`; if it
        can't, the process must end. Raises StoreFullError when there is no room: no row is in a file, the
        entries are kept and may be written again.
        """
        assert self._intent is None, "write() again before done()"
        remove_durably(self._intent_dir.glob(f"*{_WRITTEN}"))
        self._crash_point("previous_removed")
        if not self._entries:
            return {}
        frames = self._frames()
        covered = _by_shard((entry.shard, entry.sequence) for entry in self._entries)
        intent = _Intent(
            FORMAT_VERSION,
            [str(path.relative_to(self._root)) for path in frames],
            {shard: _ranges(sequences) for shard, sequences in covered.items()},
        )
        path = self._intent_dir / f"{self._writer_id}-{self._sequence:08d}{_INTENT}"
        content = sealed(msgspec.json.encode(intent))
        write_atomically(path, lambda file: file.write(content), self._intent_point)
        try:
            for target, frame in frames.items():
                self._write_file(target, frame)
                self._crash_point("file_written")
            publish(frames, self._crash_point)
        except (OSError, StoreFullError):
            _undo(self._root, intent)
            remove_durably([path])
            raise
        self._intent = path
        self._entries, self._rows = [], 0
        self._sequence += 1
        self._crash_point("published")
        return covered

    def done(self) -> None:
        """Hear that what `write` returned is dropped from the shards; their logs need not be durable yet."""
        if self._intent is not None:
            self._intent.replace(self._intent.with_name(self._intent.name.removesuffix(_INTENT) + _WRITTEN))
            self._intent = None
        self._crash_point("done")

    def close(self) -> None:
        """Forget the last write, so that others may do with its files what they like.

        Before: nothing is gathered, and the caller has made its shards' write-ahead logs durable once more.
        """
        assert self._intent is None, "close() before done()"
        remove_durably(self._intent_dir.glob(f"*{_WRITTEN}"))
        self._crash_point("closed")

    def _intent_point(self, point: str) -> None:
        self._crash_point(f"intent_{point}")

    def _frames(self) -> dict[Path, pl.DataFrame]:
        """By target file, the rows to write: one file a dataset, none for a dataset without rows."""
        gathered: dict[SnapshotDataset, list[pl.DataFrame]] = {}
        for entry in self._entries:
            if entry.table.num_rows:
                gathered.setdefault(entry.dataset, []).append(cast(pl.DataFrame, pl.from_arrow(entry.table)))
        folders = {dataset: snapshot_dir(self._root, dataset) for dataset in gathered}
        while any((folder / self._name()).exists() for folder in folders.values()):
            # A writer id used twice must not overwrite what it wrote the first time.
            self._sequence += 1
        return {
            folders[dataset] / self._name(): pl.concat(frames).sort(WINDOW_END, maintain_order=True)
            for dataset, frames in gathered.items()
        }

    def _name(self) -> str:
        return snapshot_name(self._writer_id, self._sequence)

    def _write_file(self, path: Path, frame: pl.DataFrame) -> None:
        footer = msgspec.json.encode({"format_version": FORMAT_VERSION, "writer": self._writer_id})

        def write(file: BinaryIO) -> None:
            write_frame(file, frame, footer=footer, statistics=[WINDOW_END, "revision"])

        write_temporary(path, write)


def recover(root: Path, intent_dir: Path) -> WrittenEntries:
    """Undo the writes that a crash interrupted, and name the entries of those whose files are complete.

    Called before the shards emit anything, with no writer at work on `intent_dir`. The caller drops the
    returned entries from the shards, makes that durable, then calls `finish_recovery`. After another crash
    it is simply called again. Raises StoreFormatError when an intent can't be read.
    """
    covered: list[tuple[int, int]] = []
    if intent_dir.is_dir():
        remove_temporaries(intent_dir)
    for path in _intent_paths(intent_dir):
        intent = _read_intent(path)
        targets = [root / name for name in intent.files]
        if not path.name.endswith(_WRITTEN) and not all(target.exists() for target in targets):
            _undo(root, intent)
            continue
        # The names were seen, perhaps only in memory: they must not vanish after the entries have been
        # dropped.
        sync_folders(target.parent for target in targets if target.parent.is_dir())
        for shard, ranges in intent.covered.items():
            covered.extend((shard, sequence) for first, last in ranges for sequence in range(first, last + 1))
    return _by_shard(covered)


def finish_recovery(intent_dir: Path) -> None:
    """Forget the intents: the entries that `recover` returned are durably dropped."""
    remove_durably(_intent_paths(intent_dir))


def unfinished_files(root: Path, intent_dirs: Sequence[Path]) -> set[Path]:
    """Files that a writer, or the recovery after a crash, may still ask for, remove or write again.

    intent_dirs: of every process of every source. What is listed before this is called and not named here will never be
    touched again by its writer: an intent is there before its files are, and goes after them. One that says `.written`
    counts as well, for a power cut may bring its old name back.
    """
    names: set[str] = set()
    for _ in range(2):
        # A folder that is read while an intent gets its other name may show neither: the second time shows it.
        for folder in intent_dirs:
            for path in _intent_paths(folder):
                with suppress(FileNotFoundError):
                    names.update(_read_intent(path).files)
    return {root / name for name in names}


def _undo(root: Path, intent: _Intent) -> None:
    targets = [root / name for name in intent.files]
    remove_durably(targets)
    remove_durably(temporary_path(target) for target in targets)


def _read_intent(path: Path) -> _Intent:
    try:
        intent = msgspec.json.decode(unsealed(path.read_bytes()), type=_Intent)
    except ValueError as error:
        raise StoreFormatError(
            f"{path} is damaged ({error}): it says which snapshot rows were being written",
            hint="make the source's store and its newest snapshots again: featurestore rebuild SOURCE",
        ) from error
    if intent.format_version != FORMAT_VERSION:
        raise StoreFormatError(
            f"{path} has format version {intent.format_version}, this program writes {FORMAT_VERSION}",
            hint="run the version of featurestore that wrote it once, so that it finishes the write",
        )
    return intent


def _intent_paths(intent_dir: Path) -> list[Path]:
    if not intent_dir.is_dir():
        return []
    return sorted(path for path in intent_dir.iterdir() if path.name.endswith((_INTENT, _WRITTEN)))


def _by_shard(entries: Iterable[tuple[int, int]]) -> WrittenEntries:
    found: WrittenEntries = {}
    for shard, sequence in sorted(set(entries)):
        found.setdefault(shard, []).append(sequence)
    return found


def _ranges(sequences: Sequence[int]) -> list[tuple[int, int]]:
    """Inclusive runs of ascending numbers."""
    runs: list[tuple[int, int]] = []
    for sequence in sequences:
        if runs and runs[-1][1] == sequence - 1:
            runs[-1] = (runs[-1][0], sequence)
        else:
            runs.append((sequence, sequence))
    return runs
