"""What `featurestore status` tells, gathered: the broker's ends, the archive's counts, each view's state.

Everything is read beside running workers and without their help; a broker that does not answer costs two seconds.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from featurestore.batches import NO_TIME
from featurestore.cli.batch_status import BatchViewStatus, batch_status, freshness_slo_s
from featurestore.cli.disk_report import DiskReport
from featurestore.cli.options import require_data_dir
from featurestore.compile.view import CompiledView, compile_view
from featurestore.config import KafkaSettings, Settings
from featurestore.definitions.specs import SourceSpec
from featurestore.durations import format_instant
from featurestore.errors import FeatureStoreError
from featurestore.offline.read import archive_counts
from featurestore.offline.retention import archive_begin
from featurestore.online import layout as online_layout
from featurestore.online.reader import OnlineReader
from featurestore.online.source_store import read_store_info
from featurestore.registry import RegisteredView, Registry, Role, Route, split_reference
from featurestore.shard.protocol import Fence, ViewCounts, ViewState
from featurestore.sources.topics import TopicInfo, look_at_topic
from featurestore.worker.offset_gaps import read_offset_gaps

BROKER_TIMEOUT_S = 2.0


class PartitionStatus(msgspec.Struct, frozen=True):
    """A partition of the topic's present generation. next_offset: everything below is applied, in all views.

    end, lag: None when the broker does not answer.
    """

    partition: int
    next_offset: int | None
    end: int | None
    lag: int | None


class LostOffsets(msgspec.Struct, frozen=True):
    """Offsets [first, end) of a partition that were gone before they were read, left out with --accept-gap."""

    generation: str
    partition: int
    first: int
    end: int
    noticed_at: str


class SourceStatus(msgspec.Struct, frozen=True):
    """A source. Messages are counted as archived: read = accepted + late + dead letters + duplicates. imported:
    events of history by generation, which no message brought. offsets_lost: of all generations; 0 unless a gap was
    accepted.

    generation: None when the broker does not answer; then broker_error says why, and partitions are those last read.
    """

    name: str
    topic: str
    generation: str | None
    broker_error: str | None
    partitions: list[PartitionStatus]
    lag: int | None
    read: int
    accepted: int
    late: int
    dead_letters: dict[str, int]
    duplicates: int
    imported: dict[str, int]
    offsets_lost: int
    offset_gaps: list[LostOffsets]
    has_store: bool


class ViewStatus(msgspec.Struct, frozen=True):
    """A version of a view, over all shards. role: what it is to readers. Times are ISO 8601, UTC; None before any.

    freshness_s: wall clock minus newest event time; freshness_slo_s: how much of it the view's SLO allows, None without
    one. complete_since: every event that arrived from then on is in it;
    from_beginning: so is every earlier one that the topic ever had.
    """

    name: str
    version: int
    role: Role
    source: str
    entities: int
    applied: int
    filtered: int
    null_key: int
    beyond_retention: int
    watermark: str | None
    newest_event: str | None
    freshness_s: float | None
    freshness_slo_s: float | None
    complete_since: str | None
    from_beginning: bool
    paused_since: str | None


class StatusReport(msgspec.Struct, frozen=True):
    """The whole answer. disk: not there unless it was asked for."""

    data_dir: str
    sources: list[SourceStatus]
    views: list[ViewStatus]
    batch_views: list[BatchViewStatus]
    disk: DiskReport | msgspec.UnsetType = msgspec.UNSET


def collect_status(settings: Settings) -> StatusReport:
    """Gather everything. Raises StoreError without a data_dir, RegistryError without a registry."""
    data_dir = require_data_dir(settings)
    registry = Registry.open(settings.registry_place, create=False)
    try:
        views, paused, routes = registry.live_views(), registry.paused(), registry.routes()
        batch_views = registry.live_batch_views()
        sources = {name: registry.source(name) for name in sorted({view.spec.source for view in views})}
    finally:
        registry.close()
    topics = ask_broker(settings.kafka, data_dir, list(sources.values()))
    source_statuses: list[SourceStatus] = []
    view_statuses: list[ViewStatus] = []
    for name, source in sources.items():
        mine = [view for view in views if view.spec.source == name]
        states = read_states(data_dir, source, mine)
        # A paused view falls behind on purpose.
        running = {view: state for view, state in states.items() if split_reference(view)[0] not in paused}
        status = _source_status(data_dir, source, topics[name], running or states)
        source_statuses.append(status)
        view_statuses += [
            _view_status(data_dir, view, states[view.reference], status, paused, routes[view.name]) for view in mine
        ]
    batch = [batch_status(data_dir, view, routes[view.name]) for view in batch_views]
    return StatusReport(str(data_dir), source_statuses, view_statuses, batch)


def read_states(data_dir: Path, source: SourceSpec, views: Sequence[RegisteredView]) -> dict[str, list[ViewState]]:
    """Every shard's state of each view, by "view@version"; empty lists before the first run."""
    if read_store_info(data_dir, source.name) is None:
        return {view.reference: [] for view in views}
    reader = OnlineReader(data_dir, source.name)
    try:
        reader.refresh()
        return {view.reference: reader.states(compile_registered(view, source)) for view in views}
    finally:
        reader.close()


def compile_registered(view: RegisteredView, source: SourceSpec) -> CompiledView:
    """The compiled form of a deployed view."""
    return compile_view(view.spec, source, view_id=view.view_id, version=view.version)


def ask_broker(
    kafka: KafkaSettings, data_dir: Path, sources: Sequence[SourceSpec], timeout_s: float = BROKER_TIMEOUT_S
) -> dict[str, TopicInfo | str]:
    """Each source's topic, or why it could not be asked, by source; all are asked at once."""
    answers: dict[str, TopicInfo | str] = {}

    def ask(source: SourceSpec) -> None:
        try:
            found = look_at_topic(kafka.bootstrap_servers, source.topic, kafka.settings, data_dir)
        except FeatureStoreError as error:
            answers[source.name] = error.message
        else:
            answers[source.name] = found

    # librdkafka's own timeouts add up over several requests: whoever asks for a status waits for none of them.
    threads = [threading.Thread(target=ask, args=(source,), daemon=True) for source in sources]
    for thread in threads:
        thread.start()
    until = time.monotonic() + timeout_s
    for thread in threads:
        thread.join(max(0.0, until - time.monotonic()))
    silent = f"no broker answers at {kafka.bootstrap_servers} within {timeout_s:g} s"
    return {source.name: answers.get(source.name, silent) for source in sources}


def least_fences(states: Mapping[str, Sequence[ViewState]]) -> dict[str, int]:
    """The least next offset over all shards and views, by "<generation>/<partition>"."""
    least: dict[str, int] = {}
    for of_view in states.values():
        for state in of_view:
            for key, fence in state.fences.items():
                least[key] = min(least.get(key, fence.next_offset), fence.next_offset)
    return least


def _source_status(
    data_dir: Path, source: SourceSpec, topic: TopicInfo | str, states: Mapping[str, Sequence[ViewState]]
) -> SourceStatus:
    least = least_fences(states)
    partitions: list[PartitionStatus] = []
    generation: str | None = None
    if isinstance(topic, TopicInfo):
        generation = topic.generation
        for partition, (first, end) in topic.partitions.items():
            offset = least.get(f"{generation}/{partition}")
            partitions.append(
                PartitionStatus(partition, offset, end, end - max(first, offset if offset is not None else first))
            )
    lags = [partition.lag for partition in partitions if partition.lag is not None]
    counts = archive_counts(data_dir / "offline", source.name)
    gaps = _lost_offsets(data_dir, source.name)
    return SourceStatus(
        name=source.name,
        topic=source.topic,
        generation=generation,
        broker_error=topic if isinstance(topic, str) else None,
        partitions=partitions,
        lag=sum(lags) if lags else None,
        read=counts.read,
        accepted=counts.accepted,
        late=counts.late,
        dead_letters=counts.dead_letters,
        duplicates=counts.duplicates,
        imported=counts.imported,
        offsets_lost=sum(gap.end - gap.first for gap in gaps),
        offset_gaps=gaps,
        has_store=read_store_info(data_dir, source.name) is not None,
    )


def _lost_offsets(data_dir: Path, source: str) -> list[LostOffsets]:
    found = []
    for key, gaps in sorted(read_offset_gaps(data_dir, source).items()):
        generation, _, partition = key.rpartition("/")
        found += [LostOffsets(generation, int(partition), gap.first, gap.end, gap.noticed_at) for gap in gaps]
    return found


def _view_status(
    data_dir: Path,
    view: RegisteredView,
    states: Sequence[ViewState],
    source: SourceStatus,
    paused: Mapping[str, datetime],
    route: Route,
) -> ViewStatus:
    total = ViewCounts()
    for state in states:
        total = total.plus(state.counts)
    watermark_us = min((state.watermark_us for state in states), default=NO_TIME)
    newest_us = max((fence.max_event_time_us for state in states for fence in state.fences.values()), default=NO_TIME)
    seen = total.applied + total.filtered + total.null_key
    filled = {key.rpartition("/")[0] for state in states for key in state.fences}
    there = source.accepted + sum(count for name, count in source.imported.items() if name in filled)
    since: str | None
    if view.start == "latest" or (source.lag == 0 and seen < there):
        # It began behind events that the archive has; its first fence was written when this version first ran.
        since, from_beginning = _told(view.applied_at), False
    else:
        complete = _archive_begin(data_dir, view.spec.source)
        since, from_beginning = complete.since, complete.from_beginning
    return ViewStatus(
        name=view.spec.name,
        version=view.version,
        role=route.role(view.version),
        source=view.spec.source,
        entities=total.entities,
        applied=total.applied,
        filtered=total.filtered,
        null_key=total.null_key,
        beyond_retention=total.beyond_retention,
        watermark=None if watermark_us == NO_TIME else format_instant(watermark_us),
        newest_event=None if newest_us == NO_TIME else format_instant(newest_us),
        freshness_s=None if newest_us == NO_TIME else round(time.time() - newest_us / 1e6, 3),
        freshness_slo_s=freshness_slo_s(view.spec.slo),
        complete_since=since,
        from_beginning=from_beginning,
        paused_since=_told(paused[view.spec.name]) if view.spec.name in paused else None,
    )


@dataclass(frozen=True)
class _Begin:
    since: str | None
    from_beginning: bool


def _archive_begin(data_dir: Path, source: str) -> _Begin:
    """When the first archived message arrived; of partitions that began behind their start, the last one's."""
    path = online_layout.source_dir(data_dir, source) / "archive_starts.json"
    starts = msgspec.json.decode(path.read_bytes(), type=dict[str, Fence]) if path.exists() else {}
    whole: list[str] = []
    cut: list[str] = []
    for key, fence in starts.items():
        generation, _, partition = key.rpartition("/")
        begin = archive_begin(data_dir / "offline", source, generation, int(partition))
        if begin is not None and begin.arrival is not None:
            (whole if fence.next_offset == 0 else cut).append(begin.arrival)
    if cut:
        return _Begin(max(cut), False)
    return _Begin(min(whole, default=None), bool(whole))


def _told(instant: datetime) -> str:
    """ISO 8601 in UTC, as every other time is told."""
    return instant.isoformat().replace("+00:00", "Z")
