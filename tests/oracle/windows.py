"""The snapshots that a bounded run leaves behind: for each dataset, key and window end the final row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.oracle.model import (
    DAY,
    HOUR,
    MINUTE,
    MS,
    SECOND,
    Feature,
    Message,
    SourceParams,
    Verdict,
    View,
    Window,
)
from tests.oracle.reads import bounds, floor
from tests.oracle.values import aggregate, scale
from tests.oracle.verdicts import Applied, Key, applied_events

Row = dict[str, Any]
Dataset = dict[tuple[Key, int], Row]

SCALE = "_scale"


def view_watermark(messages: Sequence[Message], verdicts: Sequence[Verdict], params: SourceParams) -> int | None:
    """At the end of the log: the least over the partitions that have an accepted event; None without any."""
    newest: dict[int, int] = {}
    for message, verdict in zip(messages, verdicts, strict=True):
        if verdict.kind == "accepted" and message.event is not None:
            time = message.event[params.event_time_field]
            newest[message.partition] = max(time, newest.get(message.partition, time))
    return min(newest.values()) - params.ooo_us if newest else None


def snapshots(
    view: View,
    messages: Sequence[Message],
    verdicts: Sequence[Verdict],
    params: SourceParams,
    *,
    close_windows: bool,
) -> dict[str, Dataset]:
    """Final rows by dataset name: {(key, window end): {feature: value, "_scale": {feature: scale}}}.

    close_windows: every window with an event, as if the watermark went on for ever; else those it passed.
    """
    watermark = view_watermark(messages, verdicts, params)
    datasets: dict[str, list[Feature]] = {}
    for feature in view.features:
        datasets.setdefault(dataset_name(feature.window), []).append(feature)
    result: dict[str, Dataset] = {name: {} for name in datasets}
    for key, events in applied_events(view, messages, verdicts, params).items():
        for name, features in datasets.items():
            window = features[0].window
            for end in sorted(_ends(window, events, view.snapshot_every_us)):
                if close_windows or (watermark is not None and end <= watermark):
                    result[name][key, end] = _row(features, events, end, view.snapshot_every_us)
    return result


def dataset_name(window: Window) -> str:
    """`tumbling_1m`, `hopping_10m_1m`, `tumbling_1h_offset_5m`, `sliding` (lifetime too)."""
    if window.kind in ("sliding", "lifetime"):
        return "sliding"
    name = f"{window.kind}_{duration_text(window.size_us)}"
    if window.kind == "hopping":
        name += f"_{duration_text(window.every_us)}"
    return name + (f"_offset_{duration_text(window.offset_us)}" if window.offset_us else "")


def duration_text(us: int) -> str:
    """In the largest unit that divides it."""
    for unit, size in (("d", DAY), ("h", HOUR), ("m", MINUTE), ("s", SECOND), ("ms", MS)):
        if us % size == 0:
            return f"{us // size}{unit}"
    return f"{us}us"


def _ends(window: Window, events: Sequence[Applied], snapshot_every_us: int) -> set[int]:
    """The ends of all windows, or all boundaries, that get a row because of these events."""
    if window.kind in ("sliding", "lifetime"):
        return {floor(event.event_time, snapshot_every_us) + snapshot_every_us for event in events}
    ends = set()
    for event in events:
        start = floor(event.event_time - window.offset_us, window.hop_us) + window.offset_us
        while start + window.size_us > event.event_time:
            ends.add(start + window.size_us)
            start -= window.hop_us
    return ends


def _row(features: Sequence[Feature], events: Sequence[Applied], end: int, snapshot_every_us: int) -> Row:
    row: Row = {SCALE: {}}
    for feature in features:
        start, _ = bounds(feature.window, end)
        inside = [e for e in events if (start is None or e.event_time >= start) and e.event_time < end]
        if feature.window.kind in ("sliding", "lifetime"):
            inside = [e for e in inside if _in_time(e, end) or e.event_time >= end - snapshot_every_us]
        row[feature.name] = aggregate(feature, inside)
        row[SCALE][feature.name] = scale(feature, inside)
    return row


def _in_time(event: Applied, boundary: int) -> bool:
    """Whether the event's own partition had not reached the boundary before it."""
    return event.watermark_before is None or event.watermark_before < boundary
