"""An operator takes a view's watermark back; see `shard/watermark_reset.py` for when that is sound.

Only while no run holds the source. Repeating it after a crash brings the shards along that it had not reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import structlog

from featurestore.batches import NO_TIME
from featurestore.compile.view import CompiledView, compile_view
from featurestore.definitions.specs import SourceSpec
from featurestore.durations import format_instant
from featurestore.errors import StoreError
from featurestore.offline.archive import read_ends
from featurestore.offline.atomic import CrashPoint, no_crash
from featurestore.offline.completeness import read_marker_us, remove_marker
from featurestore.offline.layout import is_history
from featurestore.offline.newest import newest_event_before
from featurestore.online import layout
from featurestore.online.reader import OnlineReader
from featurestore.online.rocks import RocksMemory
from featurestore.online.shard_store import RocksShardStore
from featurestore.online.source_store import open_source_store, read_store_info
from featurestore.registry import RegisteredView, Registry
from featurestore.shard.protocol import Commit, ViewState
from featurestore.shard.watermark_reset import ViewTimes, check_ahead, check_void, reset_state, view_times

log = structlog.get_logger()


def read_view_states(data_dir: Path, view: CompiledView) -> list[ViewState]:
    """The view's state in every shard that has one, beside a running worker; empty before its first run."""
    if read_store_info(data_dir, view.spec.source) is None:
        return []
    reader = OnlineReader(data_dir, view.spec.source)
    try:
        reader.refresh()
        return reader.states(view)
    finally:
        reader.close()


def check_reset(data_dir: Path, view: CompiledView, to_us: int) -> ViewTimes:
    """The view's times now, once it is sure that its watermark may be taken back to `to_us`.

    The caller holds the lock of the source. Raises StoreError, with the numbers, when it may not.
    """
    states = read_view_states(data_dir, view)
    times = view_times(view, states)
    check_ahead(view, times, to_us)
    _check_archived(data_dir, view, states)
    newest_us = newest_event_before(data_dir / "offline", view.spec.source, times.watermark_us)
    check_void(view, times, to_us, newest_us)
    return times


def reset_watermark(
    data_dir: Path,
    registry: Registry,
    registered: RegisteredView,
    source: SourceSpec,
    to_us: int,
    reason: str,
    *,
    crash_point: CrashPoint = no_crash,
) -> ViewTimes:
    """Take a view's watermark back in all shards; returns its times before.

    Written down in the registry first. The caller holds the lock of the source. Raises StoreError when it may not be.
    """
    view = compile_view(registered.spec, source, view_id=registered.view_id, version=registered.version)
    times = check_reset(data_dir, view, to_us)
    registry.record_watermark_reset(registered, times.watermark_us, to_us, reason)
    offline = data_dir / "offline"
    if (read_marker_us(offline, view.name, view.version) or NO_TIME) > to_us:
        remove_marker(offline, view.name, view.version)
    crash_point("marker_removed")
    info = read_store_info(data_dir, view.spec.source)
    assert info is not None, "a view without a store has no watermark"
    open_source_store(data_dir, view.spec.source, info.shards)
    memory = RocksMemory()
    for shard in range(info.shards):
        store = RocksShardStore(layout.shard_dir(data_dir, view.spec.source, shard), memory)
        try:
            changed = reset_state(store.read_state(view) or ViewState(), to_us)
            if changed is not None:
                store.write(Commit(states=[(view, changed)]))
                store.sync()
        finally:
            store.close()
        crash_point("shard_reset")
    log.warning(
        "watermark_reset",
        view=view.name,
        before=format_instant(times.watermark_us),
        to=format_instant(to_us),
        reason=reason,
    )
    return times


def _check_archived(data_dir: Path, view: CompiledView, states: Sequence[ViewState]) -> None:
    """Raise StoreError when a shard has applied what the archive has not yet, as after a crash."""
    applied: dict[tuple[str, int], int] = {}
    for state in states:
        for key, fence in state.fences.items():
            generation, _, partition = key.rpartition("/")
            # A partition without a valid event has nothing that the archive could miss; imported history was there
            # first.
            if fence.max_event_time_us != NO_TIME and not is_history(generation):
                place = generation, int(partition)
                applied[place] = max(applied.get(place, 0), fence.next_offset)
    generations = {generation for generation, _ in applied}
    ends = {name: read_ends(data_dir / "offline", view.spec.source, name) for name in generations}
    for (generation, number), offset in applied.items():
        end = ends[generation].get(number)
        archived = 0 if end is None else end.next_offset
        if archived < offset:
            raise StoreError(
                f"view '{view.name}' has applied partition {number} up to offset {offset:,}, the archive has it up to "
                f"{archived:,}: the last worker was killed",
                hint="run the worker again and stop it, or use --until-end; then say this again",
            )
