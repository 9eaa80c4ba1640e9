"""Before a run: lock the sources, mend what a crash left, and decide where each partition is read on.

The stores are read and written here by one process alone; the workers start from the plan it makes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from featurestore.batches import NO_TIME
from featurestore.compile.view import CompiledView, compile_view
from featurestore.config import Settings
from featurestore.definitions.specs import SourceSpec
from featurestore.errors import OffsetGapError, StoreFormatError
from featurestore.offline.archive import read_ends
from featurestore.offline.archive_reader import largest_event_time_before
from featurestore.offline.atomic import write_atomically
from featurestore.offline.snapshots import finish_recovery, recover
from featurestore.online import layout
from featurestore.online.rocks import RocksMemory
from featurestore.online.shard_store import RocksShardStore
from featurestore.online.source_store import SourceLock, lock_source, open_source_store
from featurestore.online.steps import whole_step
from featurestore.online.stored_views import check_views, note_views
from featurestore.online.synced import check_sizes
from featurestore.registry import RegisteredView
from featurestore.shard.protocol import Commit, Fence, ViewState, fence_key
from featurestore.sources.epochs import EarlierSource
from featurestore.sources.topics import TopicInfo, check_resume, wait_for_topic
from featurestore.worker.offset_gaps import OffsetGap, note_offset_gaps, read_offset_gaps
from featurestore.worker.plan import SourcePlan, ViewPlan
from featurestore.worker.resume import archive_starts, decided_offsets, first_fences, newest_before, resume_points

log = structlog.get_logger()


EarlierSources = Callable[[SourceSpec, str, Mapping[int, Fence], Mapping[int, int]], tuple[EarlierSource, ...]]
"""From a source, its topic's generation, where partitions are read on, and the first offsets that nobody has decided
about: the definitions that decide about messages before some offset."""


@dataclass(frozen=True)
class RegisteredSource:
    """A source and the registered views that read it."""

    source: SourceSpec
    views: tuple[RegisteredView, ...]

    def compile(self) -> list[CompiledView]:
        """The views, compiled."""
        return [compile_view(view.spec, self.source, view_id=view.view_id, version=view.version) for view in self.views]


def lock_sources(settings: Settings, sources: Sequence[str]) -> list[SourceLock]:
    """Lock every source of the run before anything is touched, all or none. Raises StoreLockedError."""
    locks: list[SourceLock] = []
    try:
        for source in sources:
            locks.append(lock_source(Path(settings.store.data_dir), source))
    except BaseException:
        for lock in locks:
            lock.release()
        raise
    return locks


def plan_source(
    settings: Settings,
    registered: RegisteredSource,
    earlier: EarlierSources,
    *,
    until_end: bool,
    accept_gap: bool,
    stop: Callable[[], bool],
) -> SourcePlan:
    """Decide where a source's partitions are read on. The caller holds the source's lock.

    earlier: which definitions of the source decided before the present one. accept_gap: leave out what the broker has
    no more, and count it.

    Raises SourceError (no topic, offsets gone), StoreError (a shard missing or damaged).
    """
    source = registered.source
    data_dir = Path(settings.store.data_dir)
    topic = wait_for_topic(settings.kafka.bootstrap_servers, source.topic, settings.kafka.settings, data_dir, stop=stop)
    info = open_source_store(data_dir, source.name, settings.store.shards)
    check_sizes(data_dir, source.name)
    compiled = registered.compile()
    check_views(data_dir, source.name, compiled)
    note_views(data_dir, source.name, compiled)
    initial = {view.reference: _first_fences(view, topic) for view in registered.views}
    with whole_step(data_dir):
        covered = recover_outbox(data_dir, source.name)
        fences = read_fences(data_dir, source.name, info.shards, compiled, topic, initial, covered)
        for folder in outbox_dirs(data_dir, source.name):
            finish_recovery(folder)
    ends = {
        partition: Fence(end.next_offset, end.max_event_time_us)
        for partition, end in read_ends(data_dir / "offline", source.name, topic.generation).items()
    }
    starts = _archive_starts(data_dir, source.name, topic, fences)
    resume = with_archived_times(
        data_dir / "offline", source.name, topic.generation, resume_points(fences, ends, starts)
    )
    known_gaps = read_offset_gaps(data_dir, source.name)
    read_from = behind_gaps(source, topic, resume, ends, known_gaps, accept_gap=accept_gap)
    if read_from:
        gaps = {p: (resume[p].next_offset, first) for p, first in read_from.items()}
        note_offset_gaps(data_dir, source.name, {fence_key(topic.generation, p): gap for p, gap in gaps.items()})
        for partition, (first, end) in gaps.items():
            log.warning("offsets_lost", source=source.name, partition=partition, first=first, end=end, lost=end - first)
            known = [*fences[partition], ends.get(partition, starts[partition])]
            resume[partition] = Fence(first, newest_before(end, known))
    log.info(
        "resume",
        source=source.name,
        generation=topic.generation,
        offsets={str(partition): fence.next_offset for partition, fence in resume.items()},
    )
    return SourcePlan(
        source=source,
        views=tuple(ViewPlan(view.spec, view.view_id, view.version, initial[view.reference]) for view in compiled),
        generation=topic.generation,
        incarnation=info.incarnation,
        shards=info.shards,
        resume=resume,
        archive_start=starts,
        stop_at={p: high for p, (_, high) in topic.partitions.items()} if until_end else None,
        earlier=earlier(source, topic.generation, resume, decided_offsets(fences, ends)),
        read_from=read_from,
        offsets_lost=_offsets_lost(data_dir, source.name, topic),
    )


def with_archived_times(offline: Path, source: str, generation: str, resume: Mapping[int, Fence]) -> dict[int, Fence]:
    """Resume points with the largest event time before them, as far as the archive knows it.

    A view that begins in the middle of a partition, at the first offset that is left or at "latest", does not know
    it, and would take for on time what the archive has as too late.
    """
    return {
        partition: Fence(
            fence.next_offset, largest_event_time_before(offline, source, generation, partition, fence.next_offset)
        )
        if fence.max_event_time_us == NO_TIME
        else fence
        for partition, fence in resume.items()
    }


def behind_gaps(
    source: SourceSpec,
    topic: TopicInfo,
    resume: Mapping[int, Fence],
    ends: Mapping[int, Fence],
    known: Mapping[str, Sequence[OffsetGap]],
    *,
    accept_gap: bool,
) -> dict[int, int]:
    """By partition, the first offset that is left where some that are needed are gone. Raises OffsetGapError.

    known: gaps that an earlier start was told to accept; it may have ended before it had left them behind.
    """
    behind = {}
    for partition, fence in resume.items():
        place = f"topic '{source.topic}' partition {partition}"
        first, end = topic.partitions[partition]
        accepted = any(
            gap.first <= fence.next_offset and first <= gap.end
            for gap in known.get(fence_key(topic.generation, partition), ())
        )
        if not accepted and partition in ends and fence.next_offset < first <= ends[partition].next_offset:
            # Nothing is lost that would have to be accepted.
            raise OffsetGapError(
                f"{place}: offsets {fence.next_offset} to {first - 1} are still needed by the online store; the broker "
                f"keeps only those from {first} on, but the archive has them",
                hint=f"make the online store again from the archive: featurestore rebuild {source.name}",
            )
        found = check_resume(fence.next_offset, first, end, place=place, accept_gap=accept_gap or accepted)
        if found.lost:
            behind[partition] = found.offset
    return behind


def _offsets_lost(data_dir: Path, source: str, topic: TopicInfo) -> dict[int, int]:
    gaps = read_offset_gaps(data_dir, source)
    return {p: sum(gap.lost for gap in gaps.get(fence_key(topic.generation, p), [])) for p in topic.partitions}


def _first_fences(view: RegisteredView, topic: TopicInfo) -> dict[int, Fence]:
    latest = view.start == "latest"
    return {partition: Fence(high if latest else low, NO_TIME) for partition, (low, high) in topic.partitions.items()}


def read_fences(
    data_dir: Path,
    source: str,
    shards: int,
    views: Sequence[CompiledView],
    topic: TopicInfo,
    initial: Mapping[str, dict[int, Fence]],
    covered: Mapping[int, Sequence[int]],
) -> dict[int, list[Fence]]:
    """All fences by partition; writes the first ones of new views, and drops outbox entries that files show already.

    topic: what is to be read; of the archive in a backfill. initial: by "view@version", where it
    begins that has no fence yet. covered: by shard, what `recover_outbox` gave.
    """
    memory = RocksMemory()
    with ExitStack() as stack:
        stores = []
        for shard in range(shards):
            stores.append(RocksShardStore(layout.shard_dir(data_dir, source, shard), memory))
            stack.callback(stores[-1].close)
        commits = [Commit() for _ in stores]
        fences: dict[int, list[Fence]] = {partition: [] for partition in topic.partitions}
        for view in views:
            states = [store.read_state(view) or ViewState() for store in stores]
            first = first_fences(topic.generation, states, initial[view.reference], topic.partitions)
            for state, commit in zip(states, commits, strict=True):
                known = {p: state.fence(topic.generation, p) for p in topic.partitions}
                new = {p: first[p] for p, fence in known.items() if fence is None}
                if new:
                    keyed = {fence_key(topic.generation, partition): fence for partition, fence in new.items()}
                    changed = msgspec.structs.replace(state, fences={**state.fences, **keyed})
                    commit.states.append((view, changed))
                for partition, fence in known.items():
                    fences[partition].append(fence or new[partition])
        for shard, (store, commit) in enumerate(zip(stores, commits, strict=True)):
            if covered.get(shard):
                store.drop_outbox(covered[shard])
            if commit.states:
                store.write(commit)
            store.sync()
    return fences


def outbox_dirs(data_dir: Path, source: str) -> list[Path]:
    """The outbox folder of every process that ever ran the source."""
    return sorted((layout.source_dir(data_dir, source) / "outbox").glob("process-*"))


def recover_outbox(data_dir: Path, source: str) -> dict[int, list[int]]:
    """By shard, the outbox entries that files show already: what a crash left is redone or undone."""
    covered: dict[int, list[int]] = {}
    for folder in outbox_dirs(data_dir, source):
        for shard, sequences in recover(data_dir / "offline", folder).items():
            covered.setdefault(shard, []).extend(sequences)
    return covered


def holds_outbox(data_dir: Path, source: str, shards: int) -> bool:
    """Whether a shard holds rows that are in no file yet, as after a kill behind the last commit. Nobody else has the
    shards open."""
    memory = RocksMemory()
    for shard in range(shards):
        store = RocksShardStore(layout.shard_dir(data_dir, source, shard), memory)
        waits = bool(store.take_outbox())
        store.close()
        if waits:
            return True
    return False


def _archive_starts(
    data_dir: Path, source: str, topic: TopicInfo, fences: Mapping[int, Sequence[Fence]]
) -> dict[int, Fence]:
    """Where the archive of each partition begins, written down once; see `archive_starts`."""
    path = _starts_path(data_dir, source)
    stored = read_archive_starts(data_dir, source)
    starts = archive_starts(stored, topic.generation, fences)
    stored |= {fence_key(topic.generation, partition): start for partition, start in starts.items()}
    content = json.dumps(msgspec.to_builtins(stored)).encode()
    write_atomically(path, lambda file: file.write(content))
    return starts


def read_archive_starts(data_dir: Path, source: str) -> dict[str, Fence]:
    """Where the archive of each partition began, by `fence_key`; empty before the first run."""
    path = _starts_path(data_dir, source)
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Fence])
    except FileNotFoundError:
        return {}
    except msgspec.DecodeError as error:
        raise StoreFormatError(
            f"{path} can't be understood ({error})", hint=f"make the store again: featurestore rebuild {source}"
        ) from error


def _starts_path(data_dir: Path, source: str) -> Path:
    return layout.source_dir(data_dir, source) / "archive_starts.json"
