"""What a backfill has to do: which views, and what of the archive it reads for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from featurestore.compile.view import CompiledView
from featurestore.config import Settings
from featurestore.definitions.discover import load_definitions
from featurestore.definitions.governance import require_owners
from featurestore.definitions.resolve import resolve_all
from featurestore.durations import format_instant
from featurestore.errors import BackfillError
from featurestore.offline.archive_reader import archived_extent, archived_generations
from featurestore.offline.coverage import Gap, archive_gaps, complete_from_us
from featurestore.online.reader import OnlineReader
from featurestore.online.source_store import read_store_info
from featurestore.registry import Registry, split_reference
from featurestore.shard.protocol import fence_key
from featurestore.worker.prepare import RegisteredSource
from featurestore.worker.run import registered_views
from featurestore.worker.staging import Staging, read_staging, staging_dir
from featurestore.worker.take_in import staged_references, staged_views


@dataclass(frozen=True)
class BackfillOptions:
    """What to fill. views: "view" or "view@version"; empty: all of the modules. Versions that a worker
    has begun are not filled. The rest as in `RunOptions`."""

    modules: tuple[str, ...]
    base_dir: Path
    views: tuple[str, ...] = ()
    processes: int = 1
    apply: bool = False
    log_level: str = "info"
    metrics_dir: Path | None = None
    stderr: int | None = None
    revision: str | None = None


@dataclass(frozen=True)
class PartitionExtent:
    """What is to be read of one partition: offsets [first, end), at most so many events, the bytes of their files."""

    generation: str
    partition: int
    first: int
    end: int
    events: int
    bytes: int


@dataclass(frozen=True)
class PartialView:
    """A view some of whose windows may lack events. missing: of which times; complete_from: no window of an instant
    from here on reaches there, ISO 8601 UTC; None where lifetime features always do.
    """

    view: str
    missing: tuple[str, ...]
    complete_from: str | None


@dataclass(frozen=True)
class SourceBackfill:
    """One source's share of a backfill. partial: views whose windows reach before what is archived. taken_in: the rows
    are in the stores; False: with the worker's next start.

    finished: all that was archived when it began is in; rows: in the online store, by view, once they are taken in.
    """

    source: str
    views: tuple[str, ...]
    to_read: tuple[PartitionExtent, ...]
    finished: bool = False
    taken_in: bool = False
    rows: dict[str, int] = field(default_factory=dict)
    partial: tuple[PartialView, ...] = ()

    @property
    def events(self) -> int:
        """Events to read."""
        return sum(extent.events for extent in self.to_read)


def choose_views(settings: Settings, options: BackfillOptions) -> tuple[list[RegisteredSource], Registry]:
    """By source the view versions to fill, and the registry.

    Raises BackfillError when one has begun already or nothing is archived, PlanRequiredError when definitions are not
    applied.
    """
    definitions = load_definitions(options.modules, options.base_dir)
    resolved = resolve_all(definitions, options.base_dir)
    unknown = sorted({split_reference(view)[0] for view in options.views} - resolved.views.keys())
    if unknown:
        raise BackfillError(
            f"view '{unknown[0]}' is not defined in {', '.join(options.modules)}",
            hint=f"it is one of {', '.join(sorted(resolved.views))}",
        )
    if options.apply and settings.registry.require_owner:
        require_owners(resolved)
    registry = Registry.open(settings.registry_place)
    chosen = []
    begun: list[str] = []
    for source in registered_views(
        registry,
        resolved,
        apply=options.apply,
        in_use_days=settings.registry.in_use_days,
        revision=options.revision,
    ):
        started = _begun(Path(settings.store.data_dir), source)
        asked = [view for view in source.views if not options.views or {view.name, view.reference} & set(options.views)]
        begun += sorted(started & {view.reference for view in asked})
        wanted = [view for view in asked if view.reference not in started]
        if wanted:
            chosen.append(RegisteredSource(source.source, tuple(wanted)))
    if begun and not chosen:
        raise BackfillError(
            f"view '{begun[0]}' has begun already: a worker has run it",
            hint="give it a new version first, which begins empty: "
            f"featurestore view reset {split_reference(begun[0])[0]}",
        )
    return chosen, registry


def _begun(data_dir: Path, registered: RegisteredSource) -> set[str]:
    """Views that the source's store knows."""
    source = registered.source.name
    if read_store_info(data_dir, source) is None or not archived_generations(data_dir / "offline", source):
        raise BackfillError(
            f"nothing of source '{source}' is archived yet in {data_dir}",
            hint="there is nothing to fill from: run the worker, it reads the topic from its beginning",
        )
    reader = OnlineReader(data_dir, source)
    try:
        reader.refresh()
        return {view.reference for view in registered.compile() if reader.states(view)}
    finally:
        reader.close()


def look_at_source(settings: Settings, registered: RegisteredSource, registry: Registry) -> SourceBackfill:
    """What is to be read of a source, less what a backfill under way has read."""
    data_dir, source = Path(settings.store.data_dir), registered.source.name
    staging = read_staging(data_dir, source)
    reached: dict[str, int] = {}
    views = registered.compile()
    if staging is not None and staged_views(staging, registry) is not None:
        if staged_references(staging) != {view.reference for view in registered.views}:
            raise in_the_way(staging)
        if staging.taken or not begun_behind(data_dir, source, views):
            reached = _reached(staging_dir(data_dir, source), source, views)
    extents = []
    for generation in archived_generations(data_dir / "offline", source):
        for partition, start in generation.first.items():
            first = max(reached.get(fence_key(generation.generation, partition), 0), start.next_offset)
            end = generation.ends[partition].next_offset
            if first < end:
                found = archived_extent(data_dir / "offline", source, generation.generation, partition, first, end)
                extents.append(PartitionExtent(generation.generation, partition, first, end, *found))
    gaps = archive_gaps(data_dir / "offline", source)
    partial = tuple(partial_view(view, gaps) for view in views if gaps)
    return SourceBackfill(source, tuple(view.reference for view in views), tuple(extents), partial=partial)


def partial_view(view: CompiledView, gaps: Sequence[Gap]) -> PartialView:
    """What gaps in the archive, in order and at least one, mean for a view."""
    since_us = complete_from_us(view.groups, gaps[-1])
    return PartialView(
        view.reference, tuple(str(gap) for gap in gaps), None if since_us is None else format_instant(since_us)
    )


def begun_behind(data_dir: Path, source: str, views: Sequence[CompiledView]) -> bool:
    """Whether a backfill under way has read something, and older history was imported since: it has to begin anew."""
    reached = _reached(staging_dir(data_dir, source), source, views)
    begun = {key.rpartition("/")[0] for key, offset in reached.items() if offset}
    known = [one.generation in begun for one in archived_generations(data_dir / "offline", source)]
    return True in known and not known[0]


def _reached(staged: Path, source: str, views: Sequence[CompiledView]) -> dict[str, int]:
    """How far a backfill under way has come, by fence key; empty before its first commit."""
    if read_store_info(staged, source) is None:
        return {}
    reader = OnlineReader(staged, source)
    try:
        reader.refresh()
        states = [state for view in views for state in reader.states(view)]
    finally:
        reader.close()
    keys = {key for state in states for key in state.fences}
    return {key: min(s.fences[key].next_offset if key in s.fences else 0 for s in states) for key in keys}


def in_the_way(staging: Staging) -> BackfillError:
    """The error of a backfill of other views that is there."""
    names = ", ".join(sorted(staged_references(staging)))
    return BackfillError(
        f"a backfill of {names} is {'waiting to be taken in' if staging.whole else 'under way'}",
        hint="finish it with those views, or give it up: featurestore backfill MODULE --abandon",
    )
