"""Datasets as Apache Iceberg tables over the same Parquet files: for Spark, Trino, and whoever reads a catalog.

No row is copied. A sync is one Iceberg snapshot: files that are new are added, files that a compaction or retention
took away are removed, both or neither. Only files that nobody writes again are registered.
Source: the Iceberg table specification, version 2; columns are found by name (`schema.name-mapping.default`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq

from featurestore.errors import StoreError
from featurestore.offline import layout
from featurestore.offline.atomic import make_folder
from featurestore.offline.layout import EVENTS
from featurestore.offline.listing import list_files, with_fresh_files
from featurestore.offline.manifest import maintenance_lock
from featurestore.offline.pieces import closed_segments, partition_folders, snapshot_pieces
from featurestore.offline.swaps import finish_swaps

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

FOLDER = "_iceberg"
"""Of the catalog that is used when none is named: a SQLite file, and the tables' metadata."""

_PROPERTIES = {
    # Engines may drop what no snapshot names; these files are ours.
    "gc.enabled": "false",
    "format-version": "2",
    "owner": "featurestore",
}


@dataclass(frozen=True)
class TableFiles:
    """A dataset and the table that it becomes. name: "namespace.table"."""

    name: str
    files: tuple[Path, ...]


@dataclass(frozen=True)
class Synced:
    """What a sync did. added, removed, files: how many; rows: in the table now."""

    table: str
    added: int
    removed: int
    files: int
    rows: int


def open_catalog(root: Path, name: str | None) -> Catalog:
    """The catalog of that name in pyiceberg's own configuration, or one under the offline store.

    Raises StoreError when the catalog can't be reached or is not configured.
    """
    from pyiceberg.catalog import load_catalog
    from pyiceberg.catalog.sql import SqlCatalog

    # Of each column of each file without statistics: ours have them for keys and times alone.
    logging.getLogger("pyiceberg.io.pyarrow").setLevel(logging.ERROR)
    if name is None:
        folder = root.resolve() / FOLDER
        make_folder(folder)
        return SqlCatalog("featurestore", uri=f"sqlite:///{folder / 'catalog.db'}", warehouse=_uri(folder))
    try:
        return load_catalog(name)
    except Exception as error:  # whatever the catalog's own client raises
        raise StoreError(
            f"Iceberg catalog '{name}' can't be opened: {error}",
            hint="configure it as pyiceberg wants it: ~/.pyiceberg.yaml or PYICEBERG_CATALOG__<NAME>__URI",
        ) from error


def event_files(root: Path, source: str) -> TableFiles:
    """A source's archived events but for the newest segment of each partition, which is rewritten longer."""
    files = [
        path
        for partition in partition_folders(root, source)
        for piece in closed_segments(root, source, partition)
        for path in piece.files[f"{EVENTS}/{source}/{partition}"]
    ]
    return TableFiles(f"{EVENTS}.{source}", tuple(files))


def snapshot_files(root: Path, folder: Path, intent_dirs: Sequence[Path]) -> TableFiles:
    """A snapshot dataset with all its revisions. intent_dirs: of every process of every source."""
    pieces = snapshot_pieces(root, folder, intent_dirs)
    return TableFiles(_view_table(folder), tuple(path for piece in pieces for path in piece.files[_name(root, folder)]))


def batch_row_files(root: Path, folder: Path) -> TableFiles:
    """A batch view's rows; a file never changes once it is there."""
    return TableFiles(_view_table(folder), tuple(list_files(root, folder)))


def sync_tables(
    root: Path, catalog: Catalog, plan: Callable[[], Sequence[TableFiles]], *, grace_s: float
) -> list[Synced]:
    """Bring the tables to what `plan` says, one Iceberg snapshot each; none where nothing changed.

    plan: called when no files are being swapped. grace_s: as for `finish_swaps`, should a compaction have been killed.
    Raises StoreLockedError while a compaction or removal is at work.
    """
    with maintenance_lock(root):
        finish_swaps(root, grace_s=grace_s)
        return [_sync(catalog, table) for table in with_fresh_files(plan) if table.files]


def _name(root: Path, folder: Path) -> str:
    return folder.relative_to(root).as_posix()


def _view_table(folder: Path) -> str:
    return f"{layout.FEATURES}.{folder.parent.parent.name}_{folder.parent.name}_{folder.name}"


def _sync(catalog: Catalog, wanted: TableFiles) -> Synced:
    from pyiceberg.io.pyarrow import parquet_files_to_data_files

    footers = {_uri(path): pq.read_metadata(path) for path in wanted.files}
    schema = _union(footers.values())
    catalog.create_namespace_if_not_exists(wanted.name.rpartition(".")[0])
    table = catalog.create_table_if_not_exists(wanted.name, schema=schema, properties=_PROPERTIES)
    known = {task.file.file_path: task.file for task in table.scan().plan_files()}
    # A segment may hold late events or dead letters alone; Iceberg's plans leave files without rows out.
    files = {uri for uri, footer in footers.items() if footer.num_rows}
    added, removed = sorted(files - known.keys()), sorted(known.keys() - files)
    if added or removed:
        with table.transaction() as transaction:
            with transaction.update_schema() as update:
                update.union_by_name(schema)
            # The files have no ids of columns; engines find them by name.
            mapping = transaction.table_metadata.schema().name_mapping.model_dump_json()
            transaction.set_properties({"schema.name-mapping.default": mapping})
            with transaction.update_snapshot().overwrite() as snapshot:
                for uri in removed:
                    snapshot.delete_data_file(known[uri])
                for data_file in parquet_files_to_data_files(table.io, transaction.table_metadata, iter(added)):
                    snapshot.append_data_file(data_file)
    return Synced(wanted.name, len(added), len(removed), len(files), _rows(table))


def _uri(path: Path) -> str:
    # Not Path.as_uri(): nobody takes its percent signs back.
    return f"file://{path.resolve()}"


def _union(footers: Iterable[pq.FileMetaData]) -> pa.Schema:
    """All columns of the files: those that came later are null in the older ones."""
    found = {footer.schema.to_arrow_schema().remove_metadata() for footer in footers}
    return pa.unify_schemas(sorted(found, key=str), promote_options="permissive")


def _rows(table: Table) -> int:
    return sum(task.file.record_count for task in table.refresh().scan().plan_files())
