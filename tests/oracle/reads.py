"""What a read of one entity as of an instant gives, online and by the point-in-time join alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.oracle.model import Feature, View, Window, default_tile_us
from tests.oracle.values import aggregate
from tests.oracle.verdicts import Applied


def online_value(view: View, feature: Feature, events: Sequence[Applied], t: int) -> tuple[Any, str]:
    """Value and status of a feature as of t; `events`: the entity's own, of `applied_events`.

    For knowledge by arrival, give only the events that had arrived.
    """
    before = [event for event in events if event.event_time < t]
    if not before:
        return feature.default, "NOT_FOUND"
    if view.ttl_us and before[-1].event_time < t - view.ttl_us:
        return None, "OUTSIDE_MAX_AGE"
    start, end = bounds(feature.window, t)
    inside = [e for e in before if (start is None or e.event_time >= start) and e.event_time < end]
    value = aggregate(feature, inside)
    return value, "NULL_VALUE" if value is None else "PRESENT"


def online_row(view: View, events: Sequence[Applied], t: int) -> dict[str, tuple[Any, str]]:
    """Value and status of every feature of the view as of t."""
    return {feature.name: online_value(view, feature, events, t) for feature in view.features}


def bounds(window: Window, t: int) -> tuple[int | None, int]:
    """[start, end) of what a read as of t covers; start None: from the beginning."""
    if window.kind == "lifetime":
        return None, t
    if window.kind == "sliding":
        return floor(t - window.size_us, window.tile_us or default_tile_us(window.size_us)), t
    end = floor(t - window.offset_us - window.size_us, window.hop_us) + window.offset_us + window.size_us
    return end - window.size_us, end


def floor(time: int, step: int) -> int:
    """The last multiple of step that is not after time, before the epoch too."""
    return time // step * step
