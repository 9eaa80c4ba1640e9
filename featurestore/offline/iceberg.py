"""Datasets as Apache Iceberg tables over the same Parquet files: for Spark, Trino, and whoever reads a catalog.

No row is copied. A sync is one Iceberg snapshot: files that are new are added, files that a compaction or retention
took away are removed, both or neither. Only files that nobody writes again are registered.
Source: the Iceberg table specification, version 2; columns are found by name (`schema.name-mapping.default`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

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
from featurestore.offline.tables import read_metadata

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.manifest import DataFile
    from pyiceberg.table import Table, Transaction

FOLDER = "_iceberg"
"""Of the catalog that is used when none is named: a SQLite file, and the tables' metadata."""

GENERATION = "topic_generation"
"""Column of events that is in the folder's name, not in the file: an identity partition of the table.

Without it a place (`_partition`, `_offset`) would name an event of each generation of the topic.
"""

_NAME_MAPPING = "schema.name-mapping.default"

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
        for path in piece.files[_name(root, layout.source_dir(root, EVENTS, source) / partition)]
    ]
    return TableFiles(layout.source_dataset(EVENTS, source).replace("/", "."), tuple(files))


def snapshot_files(root: Path, folder: Path, intent_dirs: Sequence[Path]) -> TableFiles:
    """A snapshot dataset with all its revisions. intent_dirs: of every process of every source."""
    pieces = snapshot_pieces(root, folder, intent_dirs)
    return TableFiles(_view_table(folder), tuple(path for piece in pieces for path in piece.files[_name(root, folder)]))


def batch_row_files(root: Path, folder: Path, running: Callable[[], str | None]) -> TableFiles:
    """A batch view's rows but for those of an interval that is being materialized, or was when it was killed.

    running: what the names of that interval's files begin with (`layout.batch_stem`), None when there is none.
    """
    # Asked twice: a run may begin or end while the folder is read.
    before = running()
    files = list_files(root, folder)
    stems = tuple(stem for stem in (before, running()) if stem is not None)
    return TableFiles(_view_table(folder), tuple(path for path in files if not path.name.startswith(stems)))


def sync_tables(
    root: Path, catalog: Catalog, plan: Callable[[], Sequence[TableFiles]], *, grace_s: float
) -> list[Synced]:
    """Bring the tables to what `plan` says, one Iceberg snapshot each; none where nothing changed.

    plan: called when no files are being swapped. grace_s: as for `finish_swaps`, should a compaction have been killed.
    Raises StoreLockedError while a compaction or removal is at work; StoreError for the tables that Iceberg can't hold,
    after all others are done.
    """
    synced: list[Synced] = []
    refused: list[StoreError] = []
    with maintenance_lock(root):
        finish_swaps(root, grace_s=grace_s)
        for wanted, footers in with_fresh_files(lambda: [(one, _footers(one)) for one in plan()]):
            try:
                with _told(wanted.name):
                    # Without a file there is nothing to make a table of; one that there is has lost all of its files.
                    if footers or catalog.table_exists(wanted.name):
                        synced.append(_sync(catalog, wanted, footers))
            except StoreError as error:
                refused.append(error)
    if refused:
        raise StoreError("; ".join(error.message for error in refused), hint=refused[0].hint)
    return synced


def _name(root: Path, folder: Path) -> str:
    return folder.relative_to(root).as_posix()


def _view_table(folder: Path) -> str:
    return f"{layout.FEATURES}.{folder.parent.parent.name}_{folder.parent.name}_{folder.name}"


def _footers(wanted: TableFiles) -> dict[Path, pq.FileMetaData]:
    return {path: read_metadata(path)[0] for path in wanted.files}


def _sync(catalog: Catalog, wanted: TableFiles, footers: Mapping[Path, pq.FileMetaData]) -> Synced:
    schema = _union(wanted.name, footers)
    if schema is None:
        table = catalog.load_table(wanted.name)
    else:
        catalog.create_namespace_if_not_exists(wanted.name.rpartition(".")[0])
        table = catalog.create_table_if_not_exists(wanted.name, schema=schema, properties=_PROPERTIES)
    known = {task.file.file_path: task.file for task in table.scan().plan_files()}
    with table.transaction() as transaction:
        if schema is not None:
            _evolve(transaction, schema)
        # A segment may hold late events or dead letters alone; Iceberg's plans leave files without rows out.
        found = _data_files(transaction, table, [path for path, footer in footers.items() if footer.num_rows])
        # A batch view's part may have been written anew under its name: with its old figures engines would pass over
        # rows of it.
        added = [uri for uri, file in found.items() if uri not in known or _figures(file) != _figures(known[uri])]
        removed = sorted(known.keys() - found.keys() | known.keys() & set(added))
        if added or removed:
            with transaction.update_snapshot().overwrite() as snapshot:
                for uri in removed:
                    snapshot.delete_data_file(known[uri])
                for uri in added:
                    snapshot.append_data_file(found[uri])
    return Synced(wanted.name, len(added), len(removed), len(found), _rows(table))


def _evolve(transaction: Transaction, schema: pa.Schema) -> None:
    """Give the table the columns that it lacks; changes nothing when it has all."""
    with transaction.update_schema() as update:
        update.union_by_name(schema)
    if GENERATION in schema.names and not transaction.table_metadata.spec().fields:
        with transaction.update_spec() as spec:
            spec.add_identity(GENERATION)
    # The files have no ids of columns; engines find them by name.
    mapping = transaction.table_metadata.schema().name_mapping.model_dump_json()
    if transaction.table_metadata.properties.get(_NAME_MAPPING) != mapping:
        transaction.set_properties({_NAME_MAPPING: mapping})


def _data_files(transaction: Transaction, table: Table, paths: Sequence[Path]) -> dict[str, DataFile]:
    """By URI, ascending, what the table is to say of each file."""
    from pyiceberg.io.pyarrow import parquet_file_to_data_file

    found = {}
    for path in sorted(paths):
        file = parquet_file_to_data_file(table.io, transaction.table_metadata, _uri(path))
        if (generation := layout.generation_of(path)) is not None:
            file.partition[0] = generation
        found[file.file_path] = file
    return found


def _figures(file: DataFile) -> tuple[Any, ...]:
    """What differs when a file's content does: sizes and bounds of its columns."""
    sizes, low, high = (dict(of or {}) for of in (file.column_sizes, file.lower_bounds, file.upper_bounds))
    return file.file_size_in_bytes, file.record_count, sizes, low, high, file.partition


@contextmanager
def _told(name: str) -> Iterator[None]:
    """Turn pyiceberg's errors, and those of the way to a catalog, into StoreError naming the table."""
    try:
        yield
    except Exception as error:
        # pyiceberg's have no class in common; requests' are OSErrors.
        if not (type(error).__module__.startswith("pyiceberg.") or isinstance(error, OSError)):
            raise
        raise _refusal(name, str(error)) from error


def _refusal(name: str, why: str) -> StoreError:
    return StoreError(
        f"Iceberg table '{name}' can't be brought up to date: {why}",
        hint="when a column's type has changed drop the table in the catalog (no data goes) and call again; while "
        "files of both types are there read that dataset as Parquet. Other tables are not concerned",
    )


def _uri(path: Path) -> str:
    # Not Path.as_uri(): nobody takes its percent signs back.
    return f"file://{path.resolve()}"


def _union(name: str, footers: Mapping[Path, pq.FileMetaData]) -> pa.Schema | None:
    """All columns of the files: those that came later are null in the older ones. None without files."""
    found = _schemas(footers.values())
    if not found:
        return None
    try:
        union = pa.unify_schemas(found, promote_options="permissive")
    except pa.ArrowException as error:
        raise _refusal(name, str(error)) from error
    for field in (field for schema in found for field in schema):
        wanted = union.field(field.name).type
        if pa.types.is_integer(field.type) and pa.types.is_floating(wanted):
            # Arrow makes one of the other, Iceberg does not.
            raise _refusal(name, f"column '{field.name}' is {field.type} in some files and {wanted} in others")
    if any(layout.generation_of(path) is not None for path in footers):
        union = union.append(pa.field(GENERATION, pa.string()))
    return union


def _schemas(footers: Iterable[pq.FileMetaData]) -> list[pa.Schema]:
    return sorted({footer.schema.to_arrow_schema().remove_metadata() for footer in footers}, key=str)


def _rows(table: Table) -> int:
    return sum(task.file.record_count for task in table.refresh().scan().plan_files())
