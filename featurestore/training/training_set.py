"""Training sets: a spine with features, and the manifest that it can be made again from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from featurestore.batch.point_in_time import INSTANT, join_batch_view
from featurestore.compile.batch import CompiledBatchView
from featurestore.compile.bind import bind_view
from featurestore.compile.view import compile_view
from featurestore.definitions.specs import FeatureServiceSpec
from featurestore.durations import format_instant, parse_instant_us
from featurestore.errors import MalformedRequestError, UnknownFeatureError, UnknownViewError
from featurestore.offline.batch_rows import batch_files
from featurestore.offline.coverage import archive_gaps, complete_from_us, reaches
from featurestore.registry import AnyView, RegisteredBatchView, RegisteredView, Registry, registry_file
from featurestore.registry.services import check_pin, find_service
from featurestore.training.archive import ArchiveMark
from featurestore.training.history import JoinOptions, JoinProgress, Knowledge, WantedView, point_in_time_join
from featurestore.training.manifest import (
    BatchViewMark,
    Manifest,
    ViewMark,
    check_same,
    created_now,
    library_version,
    mark_of,
    view_names,
    view_of,
)
from featurestore.training.spine import Spine, read_spine

EVENT_TIMESTAMP = "event_timestamp"


@dataclass(frozen=True)
class TrainingSetRequest:
    """What a training set is made of.

    spine: polars, pandas or pyarrow frame, or a path of a Parquet or CSV file. features: "view:feature" each; or
    feature_service: the name of one that has them.
    knowledge: "event" or "arrival"; knowledge_time: only events that had arrived by then, an instant with a zone.
    event_timestamp: the spine's column of instants. full_feature_names: columns are named view__feature.
    """

    spine: Any
    features: tuple[str, ...]
    knowledge: Knowledge = "event"
    knowledge_time: datetime | str | None = None
    event_timestamp: str = EVENT_TIMESTAMP
    full_feature_names: bool = False
    feature_service: str | None = None


@dataclass(frozen=True)
class PartialFeatures:
    """Features of a view of which some rows may see too few events. missing: of which times the archive may lack them;
    rows: of the spine, whose windows reach there; complete_from: see `PartialView` of the backfill, ISO 8601 UTC or
    None.
    """

    view: str
    missing: tuple[str, ...]
    rows: int
    complete_from: str | None


@dataclass(frozen=True)
class TrainingSet:
    """frame: the spine's rows in their order, the features added in the order asked for. partial: see there."""

    frame: pl.DataFrame
    manifest: Manifest
    partial: tuple[PartialFeatures, ...] = ()


def make_training_set(
    data_dir: Path,
    request: TrainingSetRequest,
    *,
    again: Manifest | None = None,
    registry_place: Path | str | None = None,
    progress: Callable[[JoinProgress], None] = lambda progress: None,
) -> TrainingSet:
    """Join the features to the spine.

    registry_place: of the registry, None for the one in the data_dir.
    again: make the set of this manifest, by what its archive held then; features, knowledge and names come from it.
    Raises MalformedRequestError for a wrong spine or request, UnknownViewError, UnknownFeatureError,
    UnknownFeatureServiceError, PinnedVersionError.
    """
    service = None
    if again is not None:
        request, service = _request_of(again, request.spine), again.feature_service
    registry = Registry.open(registry_place or registry_file(data_dir), create=False)
    try:
        if again is None and request.feature_service is not None:
            service = _service(registry, request)
            request = replace(request, features=service.references)
        pins = _pins(again, service)
        asked = [_version(registry, name, pins.get(name)) for name in view_names(request.features)]
        views = [view for view in asked if isinstance(view, RegisteredView)]
        batch = [view for view in asked if isinstance(view, RegisteredBatchView)]
        sources = {view.spec.source: registry.source(view.spec.source) for view in views}
    finally:
        registry.close()
    if again is None and service is not None:
        deployed = {view.spec.name: view for view in asked}
        for pin in service.views:
            check_pin(service.name, pin, deployed[pin.name].version, deployed[pin.name].fingerprint)
    names = _column_names(asked, request)
    join_keys = {key.name: key for view in asked for key in view.spec.join_keys}
    spine = read_spine(request.spine, request.event_timestamp, list(join_keys.values()))
    taken = [name for name in names.values() if name in spine.frame.columns]
    if taken:
        raise MalformedRequestError(
            f"the spine has a column '{taken[0]}' already",
            hint="rename it, or ask for full feature names (view__feature)",
        )
    if again is not None:
        check_same(again, spine, {view.spec.name: (view.version, view.fingerprint) for view in asked})
    wanted = [
        WantedView(
            bind_view(compile_view(view.spec, sources[view.spec.source], view_id=view.view_id, version=view.version)),
            sources[view.spec.source],
            tuple((f.partition(":")[2], names[f]) for f in names if view_of(f) == view.spec.name),
        )
        for view in views
    ]
    known_by_us = None if request.knowledge_time is None else parse_instant_us(request.knowledge_time)
    marks, groups = (None, None) if again is None else (dict(again.archive), again.groups)
    options = JoinOptions(request.knowledge, known_by_us, marks, groups)
    joined = point_in_time_join(data_dir / "offline", spine, wanted, options, progress)
    rows = [_BatchJoin(data_dir / "offline", view, request.knowledge, known_by_us, again) for view in batch]
    frames = [joined.features, *(join.features(spine, names) for join in rows)]
    manifest = Manifest(
        library_version=library_version(),
        created_at=created_now(),
        features=request.features,
        full_feature_names=request.full_feature_names,
        event_timestamp=request.event_timestamp,
        knowledge=request.knowledge,
        knowledge_time=None if known_by_us is None else format_instant(known_by_us),
        spine=mark_of(spine),
        views=tuple(ViewMark(v.spec.name, v.version, v.fingerprint, joined.groups[v.spec.name], v.spec) for v in views),
        batch_views=tuple(join.mark for join in rows),
        archive=joined.marks,
        feature_service=service,
    )
    features = pl.concat([frame for frame in frames if frame.width], how="horizontal")
    partial = _partial(data_dir / "offline", spine, wanted, joined.marks)
    return TrainingSet(spine.frame.hstack(features.select(names.values())), manifest, partial)


def _partial(
    root: Path, spine: Spine, views: Sequence[WantedView], marks: Mapping[str, tuple[ArchiveMark, ...]]
) -> tuple[PartialFeatures, ...]:
    found = []
    for wanted in views:
        read = {mark.generation for mark in marks[wanted.source.name]}
        gaps = archive_gaps(root, wanted.source.name, read)
        names = {name for name, _ in wanted.features}
        groups = [
            group for group in wanted.bound.compiled.groups if names & {feature.name for feature in group.features}
        ]
        as_of_us = spine.as_of.to_numpy()
        rows = np.zeros(len(as_of_us), dtype=bool)
        for gap in gaps:
            rows |= reaches(groups, gap, as_of_us)
        if rows.any():
            from_us = complete_from_us(groups, gaps[-1])
            told = tuple(str(gap) for gap in gaps)
            complete = None if from_us is None else format_instant(from_us)
            found.append(PartialFeatures(wanted.bound.compiled.name, told, int(rows.sum()), complete))
    return tuple(found)


class _BatchJoin:
    """The features of one batch view, from the files that it has now, or had in the manifest."""

    def __init__(
        self,
        root: Path,
        view: RegisteredBatchView,
        knowledge: Knowledge,
        known_by_us: int | None,
        again: Manifest | None,
    ) -> None:
        self._root = root
        self._knowledge = knowledge
        self._known_by_us = known_by_us
        if again is None:
            self._view = CompiledBatchView(view.view_id, view.version, view.spec)
            files = tuple(batch_files(root, self._view))
        else:
            # The files are those of the version that the set was made of; another one may compute the same by now.
            (made_of,) = (mark for mark in again.batch_views if mark.name == view.name)
            self._view = CompiledBatchView(view.view_id, made_of.version, view.spec)
            files = made_of.files
            _check_files(root, self._view, files)
        self.mark = BatchViewMark(view.name, self._view.version, view.fingerprint, files, view.spec)

    def features(self, spine: Spine, names: Mapping[str, str]) -> pl.DataFrame:
        """The wanted ones under the names that they get, shape (n, …)."""
        asked = spine.keys.select(self._view.key_names).with_columns(spine.as_of.alias(INSTANT))
        wanted = {f.partition(":")[2]: name for f, name in names.items() if view_of(f) == self._view.name}
        return join_batch_view(
            self._root,
            self._view,
            asked,
            features=list(wanted),
            knowledge=self._knowledge,
            known_by_us=self._known_by_us,
            files=self.mark.files,
        ).rename(wanted)


def _check_files(root: Path, view: CompiledBatchView, files: Sequence[str]) -> None:
    """Raise MalformedRequestError when a view's version has lost files that a training set was made of."""
    lost = sorted(set(files) - set(batch_files(root, view)))
    if lost:
        raise MalformedRequestError(
            f"{len(lost)} files of {view.name}@{view.version} are gone that the training set was made of, as {lost[0]}",
            hint="the version was purged: restore its folder from a backup",
        )


def _request_of(manifest: Manifest, spine: Any) -> TrainingSetRequest:
    return TrainingSetRequest(
        spine,
        manifest.features,
        manifest.knowledge,
        manifest.knowledge_time,
        manifest.event_timestamp,
        manifest.full_feature_names,
    )


def _service(registry: Registry, request: TrainingSetRequest) -> FeatureServiceSpec:
    if request.features:
        raise MalformedRequestError(
            "both features and a feature service are asked for", hint="name one of them: a service has its features"
        )
    return find_service(
        {name: found.spec for name, found in registry.feature_services().items()}, str(request.feature_service)
    )


def _pins(again: Manifest | None, service: FeatureServiceSpec | None) -> dict[str, int]:
    """By view, the version that a manifest or a service has of it."""
    if again is not None:
        marks: tuple[ViewMark | BatchViewMark, ...] = (*again.views, *again.batch_views)
        return {mark.name: mark.version for mark in marks}
    return {} if service is None else {pin.name: pin.version for pin in service.views}


def _version(registry: Registry, name: str, pinned: int | None) -> AnyView:
    """A view as it is asked for: "view", "view@2"; of a service or manifest its version while that is computed."""
    if pinned is not None:
        try:
            return registry.any_view(f"{name}@{pinned}")
        except UnknownViewError:
            pass  # a later version may compute the same; the caller sees to that
    return registry.any_view(name)


def _column_names(views: Sequence[AnyView], request: TrainingSetRequest) -> dict[str, str]:
    """By feature, in the order asked for, the name of its column."""
    by_name = {view.spec.name: view for view in views}
    names: dict[str, str] = {}
    for feature in request.features:
        view, _, name = feature.partition(":")
        has = [spec.name for spec in by_name[view_of(feature)].spec.features]
        if name not in has:
            raise UnknownFeatureError(f"view '{view}' has no feature '{name}'", hint=f"it has {', '.join(has)}")
        names[feature] = f"{view}__{name}" if request.full_feature_names else name
    twice = [name for name in names.values() if list(names.values()).count(name) > 1]
    if twice:
        raise MalformedRequestError(
            f"two features are named '{twice[0]}'", hint="ask for full feature names (view__feature)"
        )
    return names
