"""Where files of the offline store lie, as paths and names; nothing here touches the disk.

    events/<source>/topic_generation=<generation>/topic_partition=<p>/<first offset>.parquet
    events/<source>/topic_generation=history-<id>/…     imported history, in numbered partitions as a topic's
    late/<source>/…, dead_letter/<source>/…     likewise; compacted: <first offset>-<end>.parquet
    features/<view>/v<version>/<window>/<writer>-<sequence>.parquet; compacted: compacted-<id>.parquet
    features/<view>/v<version>/batch/<from>-<to>-<part>.parquet       a batch view's rows
        <source> and <view> with a namespace: namespace.name
    _maintenance/                               the manifest of compaction and retention, files being swapped in

The folder names are hive partitions that DuckDB, Spark and pandas understand; they are called `topic_…` so
that they can't hide a column of an event, and don't begin with "_", which pyarrow and Spark skip.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Literal
from urllib.parse import quote, unquote

from featurestore.namespaces import folder_name, name_of_folder

Kind = Literal["events", "late", "dead_letter"]

EVENTS: Kind = "events"
LATE: Kind = "late"
DEAD_LETTER: Kind = "dead_letter"

FEATURES = "features"
"""Folder of all snapshots."""

BATCH = "batch"
"""Folder of a batch view's rows, beside what would be windows of a stream view."""

SUFFIX = ".parquet"
TEMPORARY_SUFFIX = ".tmp"

MAINTENANCE = "_maintenance"
"""Folder of what compaction and retention keep for themselves and for readers."""

HISTORY = "history-"
"""What the names of generations begin with that came from files, not from a topic: imported history."""

_GENERATION = "topic_generation="
_PARTITION = "topic_partition="
_OFFSET_DIGITS = 20
_SEGMENT = re.compile(rf"(\d{{{_OFFSET_DIGITS}}})(?:-(\d{{{_OFFSET_DIGITS}}}))?{re.escape(SUFFIX)}")
_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)


@dataclass(frozen=True)
class SnapshotDataset:
    """One window of one view version: a folder. window: "tumbling_1m", "hopping_10m_1m", "sliding"."""

    view: str
    version: int
    window: str


def source_dataset(kind: Kind, source: str) -> str:
    """Folder of everything of one kind of one source, relative to the root."""
    return f"{kind}/{folder_name(source)}"


def source_dir(root: Path, kind: Kind, source: str) -> Path:
    """Everything of one kind of one source."""
    return root / source_dataset(kind, source)


def generation_dir(root: Path, kind: Kind, source: str, generation: str) -> Path:
    """Files of one generation of the topic; offsets mean the same only within one."""
    return source_dir(root, kind, source) / f"{_GENERATION}{quote(generation, safe='')}"


def partition_dir(root: Path, kind: Kind, source: str, generation: str, partition: int) -> Path:
    """Files of one partition: written by one process at a time."""
    return generation_dir(root, kind, source, generation) / f"{_PARTITION}{partition}"


def is_history(generation: str) -> bool:
    """Whether a generation was imported: no topic has it, nothing is ever added to it."""
    return generation.startswith(HISTORY)


def generation_of(place: Path) -> str | None:
    """The generation of a file or folder of a source, None for any other."""
    found = (unquote(part.removeprefix(_GENERATION)) for part in place.parts if part.startswith(_GENERATION))
    return next(found, None)


def history_of(place: Path) -> str | None:
    """The generation of a file or folder that lies in imported history, None for any other."""
    found = (part.removeprefix(_GENERATION) for part in place.parts if part.startswith(_GENERATION + HISTORY))
    return next(found, None)


def partition_of(folder: Path) -> int | None:
    """The partition of a partition folder, None for any other folder."""
    number = folder.name.removeprefix(_PARTITION)
    return int(number) if number != folder.name and number.isdigit() else None


def segment_name(start: int) -> str:
    """Name of the file of the segment that begins at offset `start`; names sort as offsets do."""
    return f"{start:0{_OFFSET_DIGITS}d}{SUFFIX}"


def compacted_segment_name(start: int, end: int) -> str:
    """Name of the file that holds all segments of the offsets [start, end)."""
    return f"{start:0{_OFFSET_DIGITS}d}-{end:0{_OFFSET_DIGITS}d}{SUFFIX}"


def segment_start(path: Path) -> int | None:
    """First offset of a segment's file, compacted or not; None for any other file."""
    found = _SEGMENT.fullmatch(path.name)
    return None if found is None else int(found[1])


def is_compacted_segment(path: Path) -> bool:
    """Whether a segment's file was made of several: it is closed for good, and its rows are not in offset order."""
    found = _SEGMENT.fullmatch(path.name)
    return found is not None and found[2] is not None


def store_of(partition_folder: Path) -> Path:
    """The root of the offline store that a partition's folder lies in."""
    return partition_folder.parents[3]


def temporary_path(path: Path) -> Path:
    """Name under which `path` is written before it is renamed: hidden, and matched by no glob for Parquet."""
    return path.with_name(f".{path.name}{TEMPORARY_SUFFIX}")


def version_dir(root: Path, view: str, version: int) -> Path:
    """Folder of all snapshot datasets of one view version."""
    return root / FEATURES / folder_name(view) / f"v{version}"


def view_of(dataset_folder: Path) -> str:
    """The view whose rows a dataset's folder holds: that of a window, or of a batch view."""
    return name_of_folder(dataset_folder.parent.parent.name)


def snapshot_dir(root: Path, dataset: SnapshotDataset) -> Path:
    """Folder of a snapshot dataset."""
    return version_dir(root, dataset.view, dataset.version) / dataset.window


def batch_dir(root: Path, view: str, version: int) -> Path:
    """Folder of the rows of a batch view's version; no window of a stream view is named like it."""
    return version_dir(root, view, version) / BATCH


def batch_stem(from_us: int | None, to_us: int) -> str:
    """What the names of all files of an interval begin with; names sort as intervals do."""
    return f"{_compact(from_us)}-{_compact(to_us)}-"


def batch_name(from_us: int | None, to_us: int, part: int) -> str:
    """Name of one part of the rows that were materialized for [from_us, to_us); from_us None: from the beginning."""
    return f"{batch_stem(from_us, to_us)}{part:05d}{SUFFIX}"


def _compact(us: int | None) -> str:
    # Without colons, which file systems and object stores take for something else.
    instant = datetime(1, 1, 1, tzinfo=timezone.utc) if us is None else _EPOCH + timedelta(microseconds=us)
    return f"{instant:%Y%m%dT%H%M%S.%fZ}".rjust(23, "0")


def snapshot_name(writer_id: str, sequence: int) -> str:
    """Name of the snapshot file that a writer's write number `sequence` makes in each dataset."""
    return f"{writer_id}-{sequence:08d}{SUFFIX}"


def compacted_snapshot_name(identity: str) -> str:
    """Name of a snapshot file that was made of several."""
    return f"compacted-{identity}{SUFFIX}"


def manifest_path(root: Path) -> Path:
    """What readers must know of compaction and retention beyond the names of files."""
    return root / MAINTENANCE / "manifest.json"


def staged_path(root: Path, folder: str, name: str) -> Path:
    """Where file `name` of `folder` (relative to the root) lies until it is swapped in."""
    return root / MAINTENANCE / "staged" / folder / name
