"""What compaction and retention move as a whole: closed segments of a partition, snapshot files; and their figures.

A closed segment's events, late events and dead letters are one piece: their files begin and end together, so that what
is moved away or removed by hand fits together too.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from featurestore.batches import ARRIVAL_TIME, EVENT_TIME
from featurestore.offline import layout
from featurestore.offline.layout import DEAD_LETTER, EVENTS, LATE, Kind
from featurestore.offline.listing import list_files, segment_files
from featurestore.offline.partition_archive import read_segment_footer
from featurestore.offline.snapshots import WINDOW_END, unfinished_files
from featurestore.offline.tables import read_figures

KINDS: tuple[Kind, ...] = (EVENTS, LATE, DEAD_LETTER)


@dataclass(frozen=True)
class Piece:
    """Files that go together. All lie under their own names: nothing is being swapped when pieces are gathered.

    files: by folder relative to the root. rows, bytes: of all of them. earliest, latest: of the events' event_time or
    the snapshots' window_end, None without rows. schema: of the events or snapshots. span: of offsets, None for
    snapshots.
    """

    files: dict[str, tuple[Path, ...]]
    rows: int
    size_bytes: int
    plain_bytes: int
    earliest: datetime | None
    latest: datetime | None
    schema: str
    span: tuple[int, int] | None = None

    @property
    def file_count(self) -> int:
        """How many files it has."""
        return sum(len(paths) for paths in self.files.values())


def partition_folders(root: Path, source: str) -> list[str]:
    """Folders of a source's partitions relative to the folder of the source, over all generations."""
    base = layout.source_dir(root, EVENTS, source)
    folders = sorted(folder for folder in base.glob("*/*") if layout.partition_of(folder) is not None)
    return [folder.relative_to(base).as_posix() for folder in folders]


def closed_segments(root: Path, source: str, partition: str) -> list[Piece]:
    """The pieces of a partition in the order of their offsets, but for the newest, which is rewritten longer.

    Imported history has no such one: all are closed. Once the newest segment's file is there no older one is ever
    written again: they are written in order, each with its late events and dead letters first. partition: of
    `partition_folders`. Raises StoreFormatError for a damaged file.
    """
    folders = {kind: layout.source_dir(root, kind, source) / partition for kind in KINDS}
    files = {kind: segment_files(folder) for kind, folder in folders.items()}
    pieces = []
    history = layout.history_of(folders[EVENTS]) is not None
    for _, path in files[EVENTS] if history else files[EVENTS][:-1]:
        footer = read_segment_footer(path)
        mine = {
            kind: tuple(side for start, side in files[kind] if footer.start <= start < footer.end) for kind in KINDS
        }
        mine[EVENTS] = (path,)
        figures = read_figures(path, EVENT_TIME)
        every = [figures, *(read_figures(side, ARRIVAL_TIME) for kind in (LATE, DEAD_LETTER) for side in mine[kind])]
        pieces.append(
            Piece(
                files={folders[kind].relative_to(root).as_posix(): paths for kind, paths in mine.items() if paths},
                rows=sum(one.rows for one in every),
                size_bytes=sum(one.size_bytes for one in every),
                plain_bytes=sum(one.plain_bytes for one in every),
                earliest=figures.earliest,
                latest=figures.latest,
                schema=figures.schema,
                span=(footer.start, footer.end),
            )
        )
    return pieces


def snapshot_folders(root: Path) -> Iterator[Path]:
    """The folder of every snapshot dataset; batch views' rows are none."""
    folders = (root / layout.FEATURES).glob("*/v*/*")
    yield from sorted(folder for folder in folders if folder.is_dir() and folder.name != layout.BATCH)


def snapshot_pieces(root: Path, folder: Path, intent_dirs: Sequence[Path]) -> list[Piece]:
    """The files of a snapshot dataset, each a piece, by the time that they cover.

    intent_dirs: of every process of every source; the files that a writer or its recovery still knows are left out.
    """
    listed = list_files(root, folder)
    # Asked after the listing, as `unfinished_files` wants it.
    unfinished = unfinished_files(root, intent_dirs)
    pieces = []
    for path in listed:
        if path in unfinished:
            continue
        figures = read_figures(path, WINDOW_END)
        files: dict[str, tuple[Path, ...]] = {folder.relative_to(root).as_posix(): (path,)}
        size, plain = figures.size_bytes, figures.plain_bytes
        pieces.append(Piece(files, figures.rows, size, plain, figures.earliest, figures.latest, figures.schema))
    return sorted(pieces, key=_by_time)


def _by_time(piece: Piece) -> tuple[bool, datetime | None, list[Path]]:
    return piece.latest is not None, piece.latest, [path for paths in piece.files.values() for path in paths]


def count_files(pieces: Sequence[Piece]) -> int:
    """How many files some pieces have."""
    return sum(piece.file_count for piece in pieces)
