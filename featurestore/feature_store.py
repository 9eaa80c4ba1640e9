"""`FeatureStore`: a project's offline data in Python, as lazy polars frames."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import polars as pl

from featurestore.compile.view import CompiledView, EmittedDataset, compile_view
from featurestore.config import Settings
from featurestore.errors import MalformedRequestError
from featurestore.offline.completeness import read_marker_us
from featurestore.offline.layout import SnapshotDataset
from featurestore.offline.read import scan_valid_snapshots
from featurestore.registry import Registry

if TYPE_CHECKING:
    from featurestore.definitions.service import FeatureService

_EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
_INSTANT = pl.Datetime("us", "UTC")


class FeatureStore:
    """The feature store of a project.

    directory: where featurestore.toml lies. It reads beside running workers and disturbs none. Raises ConfigError for
    wrong settings, RegistryError when nothing was applied yet.
    """

    def __init__(self, directory: str | Path = ".") -> None:
        settings = Settings.load(Path(directory))
        self._data_dir = data_dir = settings.store.data_dir
        self._root = data_dir / "offline"
        self._registry_place = settings.registry_place
        Registry.open(self._registry_place, create=False).close()

    @property
    def data_dir(self) -> Path:
        """Where its data lies: the registry, the archive, the snapshots."""
        return self._data_dir

    @property
    def registry_place(self) -> Path | str:
        """The registry's file, or its URL."""
        return self._registry_place

    def get_historical_features(
        self,
        spine: Any,
        features: Sequence[str] | FeatureService | str,
        *,
        knowledge: Literal["event", "arrival"] = "event",
        knowledge_time: datetime | str | None = None,
        event_timestamp: str = "event_timestamp",
        full_feature_names: bool = False,
    ) -> pl.DataFrame:
        """The spine's rows in their order with the features as they stood at each row's instant: a point-in-time join.

        spine: polars, pandas or pyarrow frame, or the path of a Parquet or CSV file, with the views' join keys and
        instants with a zone in the column `event_timestamp`. features: "view:feature" each, or a
        feature service as it is applied, by its name or its definition.
        knowledge: "event": what happened before the instant; "arrival": only what had arrived by then, as an online
        read at that instant knew. knowledge_time: leave out what arrived after it. full_feature_names: columns are
        named view__feature. An entity without an event before the instant has the feature's default, or null; one
        whose newest event is older than the view's ttl has null. The archive's whole history counts, whenever the
        view began.

        Raises UnknownViewError, UnknownFeatureError, MalformedRequestError for a wrong spine or request;
        UnknownFeatureServiceError, and PinnedVersionError when a view of the service computes something else by now.
        """
        from featurestore.training.training_set import TrainingSetRequest, make_training_set
        from featurestore.training.usage import record_training

        names, service = self._asked(features)
        request = TrainingSetRequest(
            spine, names, knowledge, knowledge_time, event_timestamp, full_feature_names, service
        )
        made = make_training_set(self._data_dir, request, registry_place=self._registry_place)
        record_training(self._registry_place, made.manifest)
        return made.frame

    def scan_snapshots(self, view: str, *, window: str | None = None) -> pl.LazyFrame:
        """The valid snapshots of a view's applied version: of each key and window the row of the highest revision.

        window: a dataset of the view ("tumbling_1m", "hopping_10m_1m", "sliding"); not needed when it has but one.
        Columns: join keys, features, window_start (tumbling and hopping), window_end, revision, created_timestamp; rows
        in no particular order. Files are listed now and read on `collect`. Rows after `complete_until` may still be
        corrected, and others of their windows may still come.

        Raises UnknownViewError, MalformedRequestError for a window that the view does not have.
        """
        compiled = self._view(view)
        dataset = _dataset(compiled, window)
        folder = SnapshotDataset(compiled.name, compiled.version, dataset.name)
        keys = [key.name for key in compiled.spec.join_keys]
        return scan_valid_snapshots(self._root, folder, keys, _schema(compiled, dataset))

    def complete_until(self, view: str) -> datetime | None:
        """The window end up to which the view's snapshots are final and in files; None when none is known to be.

        Every row with window_end <= this instant is there, and none of them changes any more. Ask before scanning:
        what is found afterwards then covers it. Raises UnknownViewError.
        """
        compiled = self._view(view)
        until_us = read_marker_us(self._root, compiled.name, compiled.version)
        return None if until_us is None else _EPOCH + timedelta(microseconds=until_us)

    def _asked(self, features: Sequence[str] | FeatureService | str) -> tuple[tuple[str, ...], str | None]:
        """Features, or the name of a service."""
        from featurestore.definitions.service import FeatureService

        if isinstance(features, str):
            if ":" in features:
                raise MalformedRequestError(f"{features!r} is one feature, not a list", hint=f"write [{features!r}]")
            return (), features
        if not isinstance(features, FeatureService):
            return tuple(features), None
        registry = Registry.open(self._registry_place, create=False)
        try:
            applied = registry.feature_services().get(features.name)
        finally:
            registry.close()
        if applied is not None and applied.spec.references != features.references:
            raise MalformedRequestError(
                f"feature service '{features.name}' is applied with other features than it is defined with here",
                hint="apply its module, or ask for the applied one by its name",
            )
        return (), features.name

    def _view(self, name: str) -> CompiledView:
        registry = Registry.open(self._registry_place, create=False)
        try:
            view = registry.view(name)
            source = registry.source(view.spec.source)
        finally:
            registry.close()
        return compile_view(view.spec, source, view_id=view.view_id, version=view.version)


def _dataset(view: CompiledView, window: str | None) -> EmittedDataset:
    datasets = {dataset.name: dataset for dataset in view.datasets}
    if window is None and len(datasets) == 1:
        return next(iter(datasets.values()))
    if window not in datasets:
        has = f"it has {', '.join(datasets)}" if datasets else "it has none"
        if window is None:
            raise MalformedRequestError(f"view '{view.name}': which window? {has}", hint='pass window="…"')
        raise MalformedRequestError(f"view '{view.name}' has no window '{window}'", hint=has)
    return datasets[window]


def _schema(view: CompiledView, dataset: EmittedDataset) -> pl.Schema:
    """Columns of a dataset, as the shards emit them."""
    columns: dict[str, pl.DataType] = {key.name: getattr(pl, key.dtype)() for key in view.spec.join_keys}
    members = {feature.name for group in dataset.groups for feature in group.features}
    columns |= {name: getattr(pl, f.output_dtype)() for name, f in view.features.items() if name in members}
    if not dataset.is_snapshot:
        columns["window_start"] = _INSTANT
    return pl.Schema({**columns, "window_end": _INSTANT, "revision": pl.Int32(), "created_timestamp": _INSTANT})
