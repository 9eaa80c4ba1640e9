"""The offline store: Parquet layout, the event archive, snapshots, atomic files.

pyarrow.parquet stays in this room. The archive is a function of the log; snapshots come through the shards'
outboxes. Whoever reads files lists them by `list_files`, for they may be compacted meanwhile.
"""

from featurestore.offline.archive import ArchiveEnd, SourceArchive, read_ends
from featurestore.offline.listing import list_files, with_fresh_files
from featurestore.offline.read import (
    ArchiveCounts,
    archive_counts,
    read_dead_letters,
    read_events,
    read_late,
    read_snapshots,
)
from featurestore.offline.retention import archive_complete_since, snapshots_complete_since
from featurestore.offline.snapshots import (
    OutboxEntry,
    SnapshotDataset,
    SnapshotWriter,
    WrittenEntries,
    finish_recovery,
    recover,
)

__all__ = [
    "ArchiveCounts",
    "ArchiveEnd",
    "OutboxEntry",
    "SnapshotDataset",
    "SnapshotWriter",
    "SourceArchive",
    "WrittenEntries",
    "archive_complete_since",
    "archive_counts",
    "finish_recovery",
    "list_files",
    "read_dead_letters",
    "read_ends",
    "read_events",
    "read_late",
    "read_snapshots",
    "recover",
    "snapshots_complete_since",
    "with_fresh_files",
]
