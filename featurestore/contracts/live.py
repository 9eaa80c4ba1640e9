"""Verifies contracts on what the project's offline store holds: each entity's newest valid snapshot."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import polars as pl

from featurestore.compile.view import CompiledView, EmittedDataset, compile_view
from featurestore.contracts.files import LoadedContract
from featurestore.contracts.models import ViewContract
from featurestore.contracts.promises import broken_dtype, broken_promises
from featurestore.contracts.report import Finding, failure
from featurestore.contracts.verify import subject_of
from featurestore.durations import format_instant, parse_duration_us
from featurestore.errors import FeatureStoreError
from featurestore.offline.completeness import read_marker_us
from featurestore.offline.layout import SnapshotDataset, snapshot_dir
from featurestore.offline.listing import list_files, with_fresh_files
from featurestore.offline.read import scan_valid_snapshots
from featurestore.registry import Registry

_WINDOW_END = "window_end"


def verify_live(data_dir: Path, registry_place: Path | str, contracts: Sequence[LoadedContract]) -> Iterator[Finding]:
    """Findings on the applied version of each contract's view. Raises RegistryError when nothing is applied."""
    registry = Registry.open(registry_place, create=False)
    try:
        batch = {view.spec.name for view in registry.batch_views()}
        for loaded in contracts:
            contract = loaded.contract
            if not isinstance(contract, ViewContract):
                continue
            subject = subject_of(loaded)
            if contract.view in batch:
                message = "a batch view has no snapshots: its rows are checked as they are materialized"
                yield Finding("live", "skipped", subject, message)
                continue
            try:
                view = registry.view(contract.view)
                source = registry.source(view.spec.source)
                compiled = compile_view(view.spec, source, view_id=view.view_id, version=view.version)
                found = list(_view(data_dir / "offline", compiled, contract, subject))
            except FeatureStoreError as error:
                found = [failure("live", subject, error)]
            yield from found
    finally:
        registry.close()


def _view(root: Path, view: CompiledView, contract: ViewContract, subject: str) -> Iterator[Finding]:
    if contract.max_age is not None:
        yield _age(root, view, contract.max_age, subject)
    entities = 0
    broken = 0
    for dataset in view.datasets:
        wanted = [
            feature.name for group in dataset.groups for feature in group.features if feature.name in contract.features
        ]
        if not wanted:
            continue
        rows = with_fresh_files(lambda dataset=dataset: _newest(root, view, dataset))  # type: ignore[misc]
        entities = max(entities, rows.height)
        for name in wanted if rows.height else ():
            promised = contract.features[name]
            wrong = broken_dtype(promised, str(rows.schema[name]))
            for sentence in [*([wrong] if wrong else []), *broken_promises(promised, rows[name])]:
                broken += 1
                yield Finding("live", "failed", f"{subject}:{name}", f"in {dataset.name} snapshots: {sentence}")
    unknown = sorted(set(contract.features) - set(view.features))
    if unknown:
        yield Finding(
            "live", "failed", subject, f"version {view.version}, which is applied, has no {', '.join(unknown)}"
        )
    elif contract.features and not entities:
        yield Finding("live", "failed", subject, "there are no snapshots", "is a worker running?")
    elif contract.features and not broken:
        message = f"{len(contract.features)} features of {entities:,} entities hold"
        yield Finding("live", "ok", subject, message)


def _newest(root: Path, view: CompiledView, dataset: EmittedDataset) -> pl.DataFrame:
    """Of each entity the valid row with the newest window end."""
    folder = SnapshotDataset(view.name, view.version, dataset.name)
    if not list_files(root, snapshot_dir(root, folder)):
        return pl.DataFrame()
    keys = [key.name for key in view.spec.join_keys]
    rows = scan_valid_snapshots(root, folder, keys, pl.Schema({}))
    return rows.sort(_WINDOW_END).unique(keys, keep="last").collect()


def _age(root: Path, view: CompiledView, max_age: str, subject: str) -> Finding:
    until_us = read_marker_us(root, view.name, view.version)
    if until_us is None:
        return Finding("live", "failed", subject, "no snapshot is known to be complete", "is a worker running?")
    age_us = time.time_ns() // 1_000 - until_us
    told = f"snapshots are complete up to {format_instant(until_us)}, {age_us // 1_000_000:,} s ago"
    if age_us > parse_duration_us(max_age):
        return Finding("live", "failed", subject, f"{told}; promised are at most {max_age}", "featurestore status")
    return Finding("live", "ok", subject, told)
