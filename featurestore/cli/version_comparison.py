"""Two versions of a view that are computed side by side, compared as readers would see them, from the online store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from featurestore.batches import NO_TIME
from featurestore.cli.disk_report import collect_disk
from featurestore.cli.status_report import compile_registered
from featurestore.cli.version_reads import Entities, compare_reads, sample_entities
from featurestore.cli.version_statistics import FeatureComparison
from featurestore.compile.batch import CompiledBatchView
from featurestore.durations import format_instant
from featurestore.errors import ConfigError, RegistryError
from featurestore.offline.batch_rows import count_batch_rows
from featurestore.online.batch_reader import BatchReader
from featurestore.online.batch_store import BatchState
from featurestore.online.reader import OnlineReader
from featurestore.online.source_store import read_store_info
from featurestore.registry import AnyView, RegisteredBatchView, RegisteredView, Registry, split_reference
from featurestore.shard.protocol import ViewCounts, ViewState


class VersionProgress(msgspec.Struct, frozen=True):
    """How far a version has come. Times: ISO 8601, UTC, None before any event.

    newest_event: that it has seen; watermark: the least of its shards'; events: that it has seen, those that its filter
    drops and those without an entity too; applied: that count in its rows; rows: entities now; online_bytes: keys and
    values, uncompressed; offline_bytes: files in the offline store. Retiring and purging the version frees both.

    Of a batch view, newest_event: of its newest row; watermark: until when it is materialized; events, applied: rows in
    the offline store.
    """

    version: int
    newest_event: str | None
    watermark: str | None
    events: int
    applied: int
    rows: int
    online_bytes: int
    offline_bytes: int


class VersionComparison(msgspec.Struct, frozen=True):
    """What is to be known before a version is promoted.

    behind_us, behind_events: by how much the new version's partitions are behind the old one's, the worst in event time
    and the sum of messages. as_of: of the reads, None when there were none. both, only_old, only_new: entities that the
    versions know. sampled: of them compared. is_batch: versions of a batch view; behind_us is then by how much less far
    the new one is materialized.
    """

    view: str
    old: VersionProgress
    new: VersionProgress
    behind_us: int
    behind_events: int
    as_of: str | None
    both: int
    only_old: int
    only_new: int
    sampled: int
    features: list[FeatureComparison]
    removed_features: list[str]
    added_features: list[str]
    notes: list[str]
    is_batch: bool = False


def find_versions(registry: Registry, first: str, second: str | None) -> tuple[AnyView, AnyView]:
    """The old and the new version that are named: `first` against `second`, or the served one against `first`.

    Raises UnknownViewError for what is not computed, ConfigError for what is no pair, RegistryError for two that no
    entity can be read from.
    """
    name, number = split_reference(first)
    if second is None:
        if number is None:
            raise ConfigError("which version?", hint=f"{name}@2; see featurestore versions {name}")
        old, new = registry.any_view(name), registry.any_view(first)
    else:
        old, new = registry.any_view(first), registry.any_view(second)
    if old.name != new.name:
        raise ConfigError(f"'{first}' and '{second}' are versions of two views", hint=f"{first} {name}@2")
    if old.version == new.version:
        raise ConfigError(
            f"{new.reference} is compared with itself" + (": it is the served one" if second is None else ""),
            hint=f"name two versions: {name}@1 {name}@2; see featurestore versions {name}",
        )
    if old.spec.join_keys != new.spec.join_keys or old.store != new.store:
        what = "other join keys" if old.spec.join_keys != new.spec.join_keys else "another source"
        raise RegistryError(
            f"{new.reference} has {what} than {old.reference}",
            hint="their rows are not about the same; let the readers of the new version ask for it by name",
        )
    return old, new


def compare_versions(
    data_dir: Path,
    registry: Registry,
    old: AnyView,
    new: AnyView,
    *,
    sample: int | None,
    as_of_us: int | None = None,
) -> VersionComparison:
    """Compare two versions beside whoever writes them, both as of one commit of each shard.

    sample: so many entities at most, the same each time, None: all. as_of_us: the instant of the reads, by default just
    after the newest event that both have seen; of a batch view, after the newest row of either. Raises StoreError.
    """
    if isinstance(old, RegisteredBatchView) and isinstance(new, RegisteredBatchView):
        return _compare_batch(data_dir, old, new, sample, as_of_us)
    assert isinstance(old, RegisteredView)
    assert isinstance(new, RegisteredView)
    source = registry.source(old.spec.source)
    views = compile_registered(old, source), compile_registered(new, source)
    if read_store_info(data_dir, source.name) is None:
        return _comparison(data_dir, old, new, ([], []), None, Entities([], 0, 0, 0), [], [])
    reader = OnlineReader(data_dir, source.name)
    try:
        reader.refresh()
        states = reader.states(views[0]), reader.states(views[1])
        latest = [reader.latest_us(view) for view in views]
        if NO_TIME in latest:
            return _comparison(data_dir, old, new, states, None, Entities([], 0, 0, 0), [], [])
        notes = []
        as_of = min(latest) if as_of_us is None else as_of_us
        if as_of < max(latest):
            notes.append("read as of before the newest event of a version: its newest tile may know more than that")
        entities = sample_entities(reader, views, sample)
        features = compare_reads(reader, views, entities.keys, as_of)
    finally:
        reader.close()
    return _comparison(data_dir, old, new, states, as_of, entities, features, notes)


def _comparison(
    data_dir: Path,
    old: RegisteredView,
    new: RegisteredView,
    states: tuple[Sequence[ViewState], Sequence[ViewState]],
    as_of_us: int | None,
    entities: Entities,
    features: list[FeatureComparison],
    notes: list[str],
) -> VersionComparison:
    sizes = _sizes(data_dir, old, new)
    progress = (
        _progress(old, states[0], entities.both + entities.only_old, sizes[old.version]),
        _progress(new, states[1], entities.both + entities.only_new, sizes[new.version]),
    )
    found = _found(old, new, progress, as_of_us, entities, features, notes)
    behind_us, behind_events = behind(states[0], states[1])
    return msgspec.structs.replace(found, behind_us=behind_us, behind_events=behind_events)


def _compare_batch(
    data_dir: Path, old: RegisteredBatchView, new: RegisteredBatchView, sample: int | None, as_of_us: int | None
) -> VersionComparison:
    old_view, new_view = (CompiledBatchView(view.view_id, view.version, view.spec) for view in (old, new))
    states, entities = [BatchState(), BatchState()], Entities([], 0, 0, 0)
    features: list[FeatureComparison] = []
    notes: list[str] = []
    read_us: int | None = None
    if read_store_info(data_dir, old.store) is not None:
        reader = BatchReader(data_dir, old.store)
        try:
            reader.refresh()
            states = [reader.state(old_view), reader.state(new_view)]
            latest_us = max(reader.latest_us(old_view), reader.latest_us(new_view))
            if all(state.until_us is not None for state in states) and latest_us != NO_TIME:
                read_us = latest_us if as_of_us is None else as_of_us
                if read_us < latest_us:
                    notes.append("read as of before the newest row: entities with a newer one are not found, in either")
                entities = sample_entities(reader, (old_view, new_view), sample)
                features = compare_reads(reader, (old_view, new_view), entities.keys, read_us)
        finally:
            reader.close()
    sizes = _sizes(data_dir, old, new)
    rows = [count_batch_rows(data_dir / "offline", view) for view in (old_view, new_view)]
    found = _found(
        old,
        new,
        (
            _batch_progress(old, states[0], rows[0], entities.both + entities.only_old, sizes[old.version]),
            _batch_progress(new, states[1], rows[1], entities.both + entities.only_new, sizes[new.version]),
        ),
        read_us,
        entities,
        features,
        notes,
    )
    ends = [state.until_us or 0 for state in states]
    return msgspec.structs.replace(found, behind_us=max(ends[0] - ends[1], 0), is_batch=True)


def _sizes(data_dir: Path, old: AnyView, new: AnyView) -> dict[int, tuple[int, int]]:
    (disk,) = collect_disk(data_dir, [old, new]).views
    return {version.version: (version.online_bytes, version.offline_bytes) for version in disk.versions}


def _found(
    old: AnyView,
    new: AnyView,
    progress: tuple[VersionProgress, VersionProgress],
    as_of_us: int | None,
    entities: Entities,
    features: list[FeatureComparison],
    notes: list[str],
) -> VersionComparison:
    names = [feature.name for feature in old.spec.features], [feature.name for feature in new.spec.features]
    return VersionComparison(
        view=old.name,
        old=progress[0],
        new=progress[1],
        behind_us=0,
        behind_events=0,
        as_of=None if as_of_us is None else format_instant(as_of_us),
        both=entities.both,
        only_old=entities.only_old,
        only_new=entities.only_new,
        sampled=len(entities.keys),
        features=features,
        removed_features=[name for name in names[0] if name not in names[1]],
        added_features=[name for name in names[1] if name not in names[0]],
        notes=notes,
    )


def behind(old: Sequence[ViewState], new: Sequence[ViewState]) -> tuple[int, int]:
    """By how much the new version's partitions are behind the old one's: the worst in µs of event time, and the sum of
    messages. Partitions that only one of them reads, as those of a topic that is gone, do not count.
    """
    ours, theirs = _partitions(new), _partitions(old)
    late_us = messages = 0
    for key in ours.keys() & theirs.keys():
        messages += max(theirs[key][0] - ours[key][0], 0)
        if theirs[key][1] != NO_TIME and theirs[key][0] > ours[key][0]:
            # Without a time of its own it has seen nothing yet: all that the other one has seen is to come.
            since = ours[key][1] if ours[key][1] != NO_TIME else 0
            late_us = max(late_us, theirs[key][1] - since)
    return late_us, messages


def _partitions(states: Sequence[ViewState]) -> dict[str, tuple[int, int]]:
    """By partition the next offset, the least of the shards', and the largest event time."""
    found: dict[str, tuple[int, int]] = {}
    for state in states:
        for key, fence in state.fences.items():
            offset, time = found.get(key, (fence.next_offset, NO_TIME))
            found[key] = min(offset, fence.next_offset), max(time, fence.max_event_time_us)
    return found


def _progress(view: RegisteredView, states: Sequence[ViewState], rows: int, sizes: tuple[int, int]) -> VersionProgress:
    total = ViewCounts()
    for state in states:
        total = total.plus(state.counts)
    newest = max((fence.max_event_time_us for state in states for fence in state.fences.values()), default=NO_TIME)
    watermark = min((state.watermark_us for state in states), default=NO_TIME)
    return VersionProgress(
        version=view.version,
        newest_event=None if newest == NO_TIME else format_instant(newest),
        watermark=None if watermark == NO_TIME else format_instant(watermark),
        events=total.applied + total.filtered + total.null_key,
        applied=total.applied,
        rows=rows,
        online_bytes=sizes[0],
        offline_bytes=sizes[1],
    )


def _batch_progress(
    view: RegisteredBatchView, state: BatchState, stored: int, rows: int, sizes: tuple[int, int]
) -> VersionProgress:
    return VersionProgress(
        version=view.version,
        newest_event=None if state.newest_us == NO_TIME else format_instant(state.newest_us),
        watermark=None if state.until_us is None else format_instant(state.until_us),
        events=stored,
        applied=stored,
        rows=rows,
        online_bytes=sizes[0],
        offline_bytes=sizes[1],
    )
