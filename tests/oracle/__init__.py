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
from tests.oracle.verdicts import (
    Applied,
    SourceCounts,
    ViewCounts,
    applied_events,
    judge,
    source_counts,
    view_counts,
)
from tests.oracle.windows import snapshots, view_watermark

__all__ = [
    "Applied",
    "Feature",
    "Message",
    "SourceCounts",
    "SourceParams",
    "Verdict",
    "View",
    "ViewCounts",
    "Window",
    "applied_events",
    "assert_same_rows",
    "default_tile_us",
    "hopping",
    "judge",
    "lifetime",
    "online_row",
    "online_value",
    "same",
    "sliding",
    "snapshots",
    "source_counts",
    "tumbling",
    "view_counts",
    "view_watermark",
]
