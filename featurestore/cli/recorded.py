"""The records of materializations and training sets: a job in the registry, and lineage events."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from featurestore.batch.materialize import Materialized
from featurestore.config import Settings
from featurestore.definitions.specs import SourceSpec, SQLSourceSpec
from featurestore.lineage_events import datasets as named
from featurestore.lineage_events import lineage_of
from featurestore.lineage_events.datasets import Column, ColumnRead, Dataset
from featurestore.registry import RegisteredBatchView, Registry
from featurestore.registry.jobs import JobRecord, Jobs, OffsetRange, definitions_hash
from featurestore.training.manifest import BatchViewMark, Manifest, ViewMark, view_of
from featurestore.training.training_set import TrainingSet, TrainingSetRequest


def recorded_materialization(
    settings: Settings, view: RegisteredBatchView, materialize: Callable[[], list[Materialized]]
) -> list[Materialized]:
    """Do it and keep its record; raises what it raises."""
    data_dir, spec = settings.store.data_dir, view.spec
    registry = Registry.open(settings.registry_place, create=False)
    jobs = Jobs(registry.database)
    query = spec.source.query if isinstance(spec.source, SQLSourceSpec) else None
    hashed = definitions_hash([spec])
    reference = f"{spec.name}@{view.version}"
    try:
        with (
            jobs.record("materialize", reference, definitions_hash=hashed, git_revision=view.git_revision) as job,
            lineage_of(job, f"materialize.{spec.name}", query=query) as events,
        ):

            def datasets() -> tuple[Sequence[Dataset], Sequence[Dataset]]:
                origin = named.batch_source_dataset(spec, Path.cwd())
                online, offline = named.batch_view_datasets(data_dir, spec, view.version, origin)
                return [origin], [online, replace(offline, rows=job.rows)]

            events.describe(datasets)
            done = materialize()
            job.rows = sum(one.rows for one in done)
            return done
    finally:
        registry.close()


@contextmanager
def recorded_training_set(
    settings: Settings, request: TrainingSetRequest, again: Manifest | None, out: Path
) -> Iterator[Callable[[TrainingSet], None]]:
    """Keep the record of a training set; to be called with what was made. The spine is a file's path."""
    asked = request.features if again is None else again.features
    views = dict.fromkeys(feature.partition(":")[0] for feature in asked)
    subject = ", ".join(views) or f"feature service {request.feature_service}"
    spine = named.file_dataset(Path(request.spine))
    registry = Registry.open(settings.registry_place, create=False)
    try:
        with (
            Jobs(registry.database).record("training-set", subject) as job,
            lineage_of(job, f"training-set.{out.name}") as events,
        ):
            events.describe(lambda: ([spine], [named.file_dataset(out)]))

            def finish(made: TrainingSet) -> None:
                _tell(job, made)
                events.describe(lambda: _datasets(settings.store.data_dir, registry.sources(), made, spine, out))

            yield finish
    finally:
        registry.close()


def _tell(job: JobRecord, made: TrainingSet) -> None:
    marks: list[ViewMark | BatchViewMark] = [*made.manifest.views, *made.manifest.batch_views]
    job.subject = ", ".join(f"{mark.name}@{mark.version}" for mark in marks)
    job.definitions_hash = definitions_hash(mark.definition for mark in marks)
    job.rows = made.frame.height
    # A join sees all that is archived below its marks.
    job.offsets = tuple(
        OffsetRange(source, mark.generation, mark.partition, 0, mark.end)
        for source, found in made.manifest.archive.items()
        for mark in found
    )


def _datasets(
    data_dir: Path, sources: dict[str, SourceSpec], made: TrainingSet, spine: Dataset, out: Path
) -> tuple[Sequence[Dataset], Sequence[Dataset]]:
    manifest = made.manifest
    inputs: dict[str, Dataset] = {}
    features: dict[str, Column] = {}
    for mark in manifest.views:
        source = sources[mark.definition.source]
        origin = inputs.setdefault(source.name, named.archive_dataset(data_dir, source))
        for column in named.stream_columns(mark.definition, source, origin):
            features[f"{mark.name}:{column.name}"] = column
    for batch in manifest.batch_views:
        origin = inputs[batch.name] = named.batch_rows_dataset(data_dir, batch.definition, batch.version)
        for column in named.batch_columns(batch.definition, origin):
            features[f"{batch.name}:{column.name}"] = column
    schema = {name: str(dtype) for name, dtype in made.frame.schema.items()}
    added = dict(zip(made.frame.columns[-len(manifest.features) :], manifest.features, strict=True))
    kept = [Column(name, dtype) for name, dtype in schema.items() if name not in added]
    columns = [replace(c, reads=(ColumnRead(spine.namespace, spine.name, c.name, "IDENTITY"),)) for c in kept]
    columns += [
        replace(features[f"{view_of(feature)}:{feature.partition(':')[2]}"], name=name)
        for name, feature in added.items()
    ]
    spine = replace(spine, columns=tuple(kept))
    return [spine, *inputs.values()], [named.file_dataset(out, columns, rows=made.frame.height)]
