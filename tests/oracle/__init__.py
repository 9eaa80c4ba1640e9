"""What the feature store must give, said naively: loops over events, no batches, no tiles, no state.

It shares no code with the project, so that a misunderstanding has to be made twice to go unseen. Times are
µs since the epoch, UTC; durations µs.
"""

from __future__ import annotations

from tests.oracle.compare import assert_same_rows, same
from tests.oracle.model import (
    Feature,
    Message,
    SourceParams,
    Verdict,
    View,
    Window,
    default_tile_us,
    hopping,
    lifetime,
    sliding,
    tumbling,
)
from tests.oracle.reads import online_row, online_value
from tests.oracle.runs import Run, RunsResult, snapshots_of_runs
from tests.oracle.verdicts import (
    Applied,
    SourceCounts,
    ViewCounts,
    applied_events,
    dead_letters,
    judge,
    source_counts,
    view_counts,
)
from tests.oracle.windows import snapshots, view_watermark
from tests.oracle.wire import Column, read_json

__all__ = [
    "Applied",
    "Column",
    "Feature",
    "Message",
    "Run",
    "RunsResult",
    "SourceCounts",
    "SourceParams",
    "Verdict",
    "View",
    "ViewCounts",
    "Window",
    "applied_events",
    "assert_same_rows",
    "dead_letters",
    "default_tile_us",
    "hopping",
    "judge",
    "lifetime",
    "online_row",
    "online_value",
    "read_json",
    "same",
    "sliding",
    "snapshots",
    "snapshots_of_runs",
    "source_counts",
    "tumbling",
    "view_counts",
    "view_watermark",
]
