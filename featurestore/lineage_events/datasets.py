"""What jobs read and write, as OpenLineage names it: datasets, their columns, and which columns those are made from.

Plain data made from stored specs; `emitter.py` turns it into events.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from featurestore.definitions.batch import ENVIRONMENT
from featurestore.definitions.specs import BatchViewSpec, FileSourceSpec, SourceSpec, SQLSourceSpec, ViewSpec
from featurestore.offline import layout
from featurestore.registry.lineage import Lineage, Node, build_lineage

NAMESPACE_VARIABLE = "OPENLINEAGE_NAMESPACE"
"""OpenLineage's own variable for the namespace of jobs."""
FILE = "file"
KAFKA_PORT = 9092

# What a column's role for a feature is called in OpenLineage (subtypes of its transformations).
_STREAM = {"value": "AGGREGATION", "where": "FILTER", "key": "GROUP_BY", "time": "WINDOW"}
_BATCH = {"value": "IDENTITY", "key": "GROUP_BY", "time": "SORT"}


@dataclass(frozen=True)
class ColumnRead:
    """A column that another one is made from. how: a subtype of OpenLineage's transformations, such as "IDENTITY",
    "AGGREGATION", "FILTER". expression: what is computed from it, "" when it is taken as it is."""

    namespace: str
    dataset: str
    column: str
    how: str
    expression: str = ""


@dataclass(frozen=True)
class Column:
    """A column of a dataset. dtype: as definitions write it. reads: what it is made from, of an output."""

    name: str
    dtype: str | None = None
    description: str = ""
    reads: tuple[ColumnRead, ...] = ()


@dataclass(frozen=True)
class Dataset:
    """Something that is read or written. storage: "kafka", "rocksdb", "file", …; rows: written to it, if known."""

    namespace: str
    name: str
    columns: tuple[Column, ...] = ()
    storage: str = ""
    file_format: str = ""
    rows: int | None = None


def job_namespace() -> str:
    """The namespace of jobs and of views: of OpenLineage's own variable, else "featurestore"."""
    return os.environ.get(NAMESPACE_VARIABLE) or "featurestore"


def topic_dataset(source: SourceSpec, bootstrap_servers: str) -> Dataset:
    """A source's topic; a cluster is named after its first bootstrap server, as OpenLineage asks."""
    first = bootstrap_servers.split(",")[0].strip().rpartition("//")[2]
    server = first if first.rpartition(":")[2].isdigit() else f"{first}:{KAFKA_PORT}"
    return Dataset(f"kafka://{server}", source.topic, _columns(source), "kafka", source.format)


def archive_dataset(data_dir: Path, source: SourceSpec, origin: Dataset | None = None) -> Dataset:
    """A source's archive. origin: the topic, where it is written from one."""
    columns = _columns(source)
    if origin is not None:
        columns = tuple(Column(c.name, c.dtype, reads=(_same(origin, c.name),)) for c in columns)
    path = layout.source_dir(data_dir / "offline", layout.EVENTS, source.name)
    return Dataset(FILE, str(path), columns, "file", "parquet")


def view_datasets(
    data_dir: Path, view: ViewSpec, version: int, source: SourceSpec, origin: Dataset
) -> tuple[Dataset, ...]:
    """A version of a view in both stores. origin: where its events are read from."""
    offline = layout.version_dir(data_dir / "offline", view.name, version)
    return _stores(view.name, version, offline, stream_columns(view, source, origin))


def batch_view_datasets(data_dir: Path, view: BatchViewSpec, version: int, origin: Dataset) -> tuple[Dataset, ...]:
    """As `view_datasets`. origin: as `batch_source_dataset` gives it."""
    folder = batch_rows_dataset(data_dir, view, version)
    return _stores(view.name, version, Path(folder.name), batch_columns(view, origin))


def batch_rows_dataset(data_dir: Path, view: BatchViewSpec, version: int) -> Dataset:
    """The rows of a batch view's version in the offline store, as an input."""
    names = [key.name for key in view.join_keys] + [feature.name for feature in view.features]
    path = layout.batch_dir(data_dir / "offline", view.name, version)
    return Dataset(FILE, str(path), tuple(map(Column, names)), "file", "parquet")


def batch_source_dataset(view: BatchViewSpec, base_dir: Path) -> Dataset:
    """Files or query of a batch view. A query has no name of its own: it is named after the view."""
    names = [key.name for key in view.join_keys] + [feature.name for feature in view.features]
    times = [name for name in (view.source.event_time, view.source.created_time) if name is not None]
    columns = tuple(map(Column, dict.fromkeys([*names, *times])))
    if isinstance(view.source, FileSourceSpec):
        place = _file_place(view.source.path, base_dir)
        return Dataset(*place, columns, "file", view.source.format)
    namespace, database = _database_place(view.source, base_dir)
    return Dataset(namespace, f"{database}.{view.name} query".lstrip("."), columns, namespace.partition(":")[0])


def file_dataset(path: Path, columns: Sequence[Column] = (), rows: int | None = None) -> Dataset:
    """A file, or a folder of files, such as a spine or a training set."""
    return Dataset(FILE, str(path.resolve()), tuple(columns), "file", path.suffix.lstrip(".") or "parquet", rows)


def stream_columns(view: ViewSpec, source: SourceSpec, origin: Dataset) -> tuple[Column, ...]:
    """Join keys and features of a stream view, with what of `origin` they are made from."""
    graph = build_lineage({source.name: source}, [view])
    keys = [Column(key.name, key.dtype, reads=(_same(origin, key.name),)) for key in view.join_keys]
    features = [
        Column(f.name, f.output_dtype, f.metadata.description, _reads(graph, view.name, f.name, origin, _STREAM))
        for f in view.features
    ]
    return (*keys, *features)


def batch_columns(view: BatchViewSpec, origin: Dataset) -> tuple[Column, ...]:
    """As `stream_columns`."""
    graph = build_lineage({}, (), [view])
    keys = [Column(key.name, key.dtype, reads=(_same(origin, key.name),)) for key in view.join_keys]
    features = [
        Column(f.name, f.output_dtype, f.metadata.description, _reads(graph, view.name, f.name, origin, _BATCH))
        for f in view.features
    ]
    return (*keys, *features)


def _stores(view: str, version: int, offline: Path, columns: tuple[Column, ...]) -> tuple[Dataset, ...]:
    # All views of a source share one RocksDB, so a view's rows have no path: they are named as readers name them.
    online = Dataset(job_namespace(), f"{view}@{version}", columns, "rocksdb")
    return online, Dataset(FILE, str(offline), columns, "file", "parquet")


def _columns(source: SourceSpec) -> tuple[Column, ...]:
    return tuple(Column(column.name, column.dtype) for column in source.columns)


def _same(origin: Dataset, column: str) -> ColumnRead:
    return ColumnRead(origin.namespace, origin.name, column, "IDENTITY")


def _reads(
    graph: Lineage, view: str, feature: str, origin: Dataset, names: Mapping[str, str]
) -> tuple[ColumnRead, ...]:
    """What a feature's node in the graph is made from; its column nodes are named "source.column"."""
    (source,) = (node.name for node in graph.inputs if node.kind == "source")
    return tuple(
        ColumnRead(
            origin.namespace,
            origin.name,
            edge.source.name.removeprefix(f"{source}."),
            names[edge.role],
            edge.expression,
        )
        for edge in graph.inputs[Node("feature", f"{view}:{feature}")]
    )


def _file_place(path: str, base_dir: Path) -> tuple[str, str]:
    """Namespace and name of a path or URL, as OpenLineage names them: "s3://bucket" and "folder/file"."""
    url = urlsplit(path)
    if not url.scheme or url.scheme == "file":
        return FILE, os.path.normpath(base_dir / url.path) if url.scheme else os.path.normpath(base_dir / path)
    return f"{url.scheme}://{url.netloc.rpartition('@')[2]}", url.path.lstrip("/")


def _database_place(source: SQLSourceSpec, base_dir: Path) -> tuple[str, str]:
    """Namespace and database of a query, without user and password."""
    text = source.url
    if text.startswith(ENVIRONMENT):
        text = os.environ.get(text.removeprefix(ENVIRONMENT), "")
    url = urlsplit(text)
    scheme = url.scheme.partition("+")[0].replace("postgresql", "postgres")
    if scheme == "sqlite":
        return FILE, os.path.normpath(base_dir / url.path.removeprefix("/"))
    if not scheme:
        return job_namespace(), ""
    return f"{scheme}://{url.netloc.rpartition('@')[2]}", url.path.lstrip("/")
