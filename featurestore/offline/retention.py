"""Retention by age: whole files whose newest row is old enough go, and the manifest says from when on all is there.

The newest segment of a partition stays, for a run resumes from it. How far back a view's open windows still reach, and
which snapshots are final, is the caller's to say: by `before`.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from featurestore.durations import format_instant, parse_instant_us
from featurestore.offline import layout
from featurestore.offline.atomic import CrashPoint, no_crash
from featurestore.offline.layout import DEAD_LETTER, EVENTS
from featurestore.offline.listing import newest_segment, segment_files, with_fresh_files
from featurestore.offline.manifest import Begin, Retention, Swap, maintenance_lock, read_manifest
from featurestore.offline.partition_archive import read_segment_footer
from featurestore.offline.pieces import Piece, closed_segments, count_files, partition_folders, snapshot_pieces
from featurestore.offline.swaps import Wait, finish_swaps, swap_files
from featurestore.offline.tables import read_column, read_footer

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_US = timedelta(microseconds=1)


@dataclass(frozen=True)
class Removal:
    """What is to go from one dataset. rows: by kind; complete_since: what will be true then, None when nothing goes."""

    dataset: str
    pieces: tuple[Piece, ...]
    rows: Mapping[str, int]
    dead_letters: Mapping[str, int]
    complete_since: datetime | None
    began: Mapping[str, Begin]

    @property
    def files(self) -> int:
        """How many files go."""
        return count_files(self.pieces)

    @property
    def size_bytes(self) -> int:
        """Their size."""
        return sum(piece.size_bytes for piece in self.pieces)


def plan_archive_removal(root: Path, source: str, before: datetime) -> Removal:
    """What of a source's archive is older than `before` by event time; late events and dead letters go with it.

    Of each partition the oldest segments go, up to the first that has an event of `before` or later; the newest never,
    but of imported history, which nobody resumes from.
    """
    gone: list[Piece] = []
    began: dict[str, Begin] = {}
    for partition in partition_folders(root, source):
        old = []
        for piece in closed_segments(root, source, partition):
            if piece.latest is not None and piece.latest >= before:
                break
            old.append(piece)
        if old:
            folder = layout.source_dir(root, EVENTS, source) / partition
            place, begin = _begin_of(folder)
            began[place] = begin
            gone.extend(old)
    rows: Counter[str] = Counter()
    reasons: Counter[str] = Counter()
    for piece in gone:
        for folder_name, paths in piece.files.items():
            kind = folder_name.split("/")[0]
            for path in paths:
                if kind == DEAD_LETTER:
                    reasons.update(dict(read_column(path, "reason").value_counts().iter_rows()))
                else:
                    rows[layout.history_of(path) or kind] += read_footer(path)[0]
                    rows["duplicates"] += read_segment_footer(path).duplicates if kind == EVENTS else 0
    counted = {kind: count for kind, count in rows.items() if count}
    dataset = layout.source_dataset(EVENTS, source)
    return Removal(dataset, tuple(gone), counted, dict(reasons), _complete_since(gone), began)


def plan_snapshot_removal(root: Path, folder: Path, before: datetime, intent_dirs: Sequence[Path]) -> Removal:
    """What of a snapshot dataset is older than `before` by window_end. intent_dirs: as for compaction."""
    pieces = snapshot_pieces(root, folder, intent_dirs)
    gone = tuple(piece for piece in pieces if piece.latest is None or piece.latest < before)
    rows = {"snapshots": sum(piece.rows for piece in gone)} if gone else {}
    return Removal(folder.relative_to(root).as_posix(), gone, rows, {}, _complete_since(gone), {})


def prune(
    root: Path,
    plan: Callable[[], Sequence[Removal]],
    *,
    grace_s: float,
    wait: Wait = time.sleep,
    crash_point: CrashPoint = no_crash,
) -> list[Removal]:
    """Finish what an earlier call left, then carry out what `plan` finds now; what went is returned.

    From one moment on readers see neither the rows nor a count without them; the files go `grace_s` later. Raises
    StoreLockedError when another compaction or removal is at work.
    """
    with maintenance_lock(root):
        finish_swaps(root, grace_s=grace_s, wait=wait, crash_point=crash_point)
        removals = [removal for removal in plan() if removal.pieces]
        known = read_manifest(root).retention
        swaps = [
            Swap(folder, [path.name for path in paths])
            for removal in removals
            for piece in removal.pieces
            for folder, paths in piece.files.items()
        ]
        if swaps:
            retention = {removal.dataset: _together(known.get(removal.dataset), removal) for removal in removals}
            swap_files(root, swaps, grace_s=grace_s, retention=retention, wait=wait, crash_point=crash_point)
        return removals


def archive_complete_since(root: Path, source: str) -> datetime | None:
    """From which event time on the archive of a source has every accepted event; None: from the beginning of the topic.

    The latest of what retention has removed and, for partitions whose archive began inside the topic (start = "latest",
    or messages that Kafka no longer had), the arrival of their first message: what is older may be missing. A training
    set whose windows reach before it sees too little.
    """
    return with_fresh_files(lambda: _archive_complete_since(root, source))


def archive_pruned_until(root: Path, source: str) -> datetime | None:
    """From which event time on nothing was removed from a source's archive; None when nothing ever was."""
    removed = read_manifest(root).retention.get(layout.source_dataset(EVENTS, source))
    return None if removed is None else _instant(removed.complete_since)


def snapshots_complete_since(root: Path, view: str, version: int, window: str) -> datetime | None:
    """From which window_end on no snapshot was removed; None when none ever was."""
    folder = layout.snapshot_dir(root, layout.SnapshotDataset(view, version, window))
    removed = read_manifest(root).retention.get(folder.relative_to(root).as_posix())
    return None if removed is None else _instant(removed.complete_since)


def archive_begin(root: Path, source: str, generation: str, partition: int) -> Begin | None:
    """Where a partition's archive began, before retention removed anything; None without files."""
    removed = read_manifest(root).retention.get(layout.source_dataset(EVENTS, source))
    place = f"{generation}/{partition}"
    if removed is not None and place in removed.began:
        return removed.began[place]
    folder = layout.partition_dir(root, EVENTS, source, generation, partition)
    return with_fresh_files(lambda: _begin_of(folder)[1] if newest_segment(folder) else None)


def _archive_complete_since(root: Path, source: str) -> datetime | None:
    removed = read_manifest(root).retention.get(layout.source_dataset(EVENTS, source))
    begins = {} if removed is None else dict(removed.began)
    for partition in partition_folders(root, source):
        folder = layout.source_dir(root, EVENTS, source) / partition
        if newest_segment(folder) is not None:
            place, begin = _begin_of(folder)
            begins.setdefault(place, begin)
    found = [_instant(begin.arrival) for begin in begins.values() if begin.offset > 0 and begin.arrival is not None]
    if removed is not None:
        found.append(_instant(removed.complete_since))
    return max(found, default=None)


def _begin_of(folder: Path) -> tuple[str, Begin]:
    footers = (read_segment_footer(path) for _, path in segment_files(folder))
    first = next(footers)
    arrival = first.first_arrival_us
    while arrival is None and (following := next(footers, None)) is not None:
        arrival = following.first_arrival_us
    begin = Begin(first.start, None if arrival is None else format_instant(arrival))
    return f"{first.generation}/{first.partition}", begin


def _complete_since(gone: Sequence[Piece]) -> datetime | None:
    newest = max((piece.latest for piece in gone if piece.latest is not None), default=None)
    return None if newest is None else newest + _US


def _together(known: Retention | None, removal: Removal) -> Retention:
    since = [format_instant((removal.complete_since - _EPOCH) // _US)] if removal.complete_since else []
    since += [] if known is None else [known.complete_since]
    return Retention(
        # Without any row neither: then nothing is missing.
        complete_since=max(since, key=parse_instant_us, default=format_instant(0)),
        removed_at=datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z"),
        files=removal.files + (known.files if known else 0),
        size_bytes=removal.size_bytes + (known.size_bytes if known else 0),
        rows=_sum(known.rows if known else {}, removal.rows),
        dead_letters=_sum(known.dead_letters if known else {}, removal.dead_letters),
        began={**removal.began, **(known.began if known else {})},
    )


def _sum(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    return dict(Counter(one) + Counter(other))


def _instant(text: str) -> datetime:
    return _EPOCH + timedelta(microseconds=parse_instant_us(text))
