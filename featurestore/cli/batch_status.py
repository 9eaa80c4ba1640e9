"""How far versions of batch views are materialized, read beside a run: for `status`, and before a promotion."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from featurestore.batches import NO_TIME
from featurestore.compile.batch import CompiledBatchView
from featurestore.definitions.specs import FileSourceSpec, SLOSpec
from featurestore.durations import format_instant
from featurestore.errors import RegistryError, StoreError
from featurestore.online.batch_reader import BatchReader
from featurestore.online.batch_store import BatchState
from featurestore.online.source_store import read_store_info
from featurestore.registry import RegisteredBatchView, Registry, Role, Route


class BatchViewStatus(msgspec.Struct, frozen=True):
    """A version of a batch view. role: what it is to readers. Times are ISO 8601, UTC; None before the first run.

    source: the files' path, or the database. freshness_s: wall clock minus the newest row's event time;
    freshness_slo_s: how much of it the view's SLO allows, None without one. unfinished: a run is under way, or was
    killed.
    """

    name: str
    version: int
    role: Role
    source: str
    entities: int
    materialized_until: str | None
    newest_row: str | None
    freshness_s: float | None
    freshness_slo_s: float | None
    last_run: str | None
    unfinished: bool


def batch_status(data_dir: Path, view: RegisteredBatchView, route: Route) -> BatchViewStatus:
    """How far a version of a deployed batch view is materialized."""
    state = batch_state(data_dir, view)
    source = view.spec.source
    newest = None if state.newest_us == NO_TIME else state.newest_us
    return BatchViewStatus(
        name=view.spec.name,
        version=view.version,
        role=route.role(view.version),
        source=source.path if isinstance(source, FileSourceSpec) else source.url,
        entities=state.entities,
        materialized_until=None if state.until_us is None else format_instant(state.until_us),
        newest_row=None if newest is None else format_instant(newest),
        freshness_s=None if newest is None else round(time.time() - newest / 1e6, 3),
        freshness_slo_s=freshness_slo_s(view.spec.slo),
        last_run=None if state.finished_us is None else format_instant(state.finished_us),
        unfinished=state.running is not None,
    )


def freshness_slo_s(slo: SLOSpec | None) -> float | None:
    """How old a view's newest event may be by its SLO, in seconds; None where nothing is promised."""
    return None if slo is None or slo.freshness_us is None else slo.freshness_us / 1e6


def batch_state(data_dir: Path, view: RegisteredBatchView, version: int | None = None) -> BatchState:
    """The state of its materialization, read beside a run under way.

    version: another one of the view, retired or not.
    """
    compiled = CompiledBatchView(view.view_id, view.version if version is None else version, view.spec)
    if read_store_info(data_dir, compiled.store) is None:
        return BatchState()
    reader = BatchReader(data_dir, compiled.store)
    try:
        reader.refresh()
        return reader.state(compiled)
    finally:
        reader.close()


def check_filled(data_dir: Path, registry: Registry, name: str, version: int) -> str | None:
    """Whether readers of a batch view may get another version.

    Returns a warning when they would get older rows than now, or when the store can't be looked at. Raises
    RegistryError when they would find nothing although the served version has been materialized.
    """
    live = {view.version: view for view in registry.live_batch_views() if view.name == name}
    if version not in live:
        return None
    served = registry.routes()[name].served
    try:
        new, now = (batch_state(data_dir, live[number]).until_us for number in (version, served))
    except StoreError as error:
        return f"how far {name}@{version} is materialized is not known: {error.message}"
    if now is None or version == served:
        return None
    if new is None:
        raise RegistryError(
            f"no run has materialized version {version} of batch view '{name}' to its end: readers would lose values",
            hint=f"featurestore materialize {name}@{version}",
        )
    if new < now:
        return (
            f"{name}@{version} is materialized until {format_instant(new)}, {name}@{served} until "
            f"{format_instant(now)}: featurestore materialize {name}"
        )
    return None
