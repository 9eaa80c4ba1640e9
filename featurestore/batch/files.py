"""Files of a batch source: which there are, on the local disk or in an object store, and their rows in batches."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import polars as pl
import pyarrow as pa
import pyarrow.fs as pafs
from pyarrow import csv as pacsv
from pyarrow import parquet as pq

from featurestore.definitions.specs import FileSourceSpec
from featurestore.errors import SourceError, SourceUnavailableError

BATCH_ROWS = 65_536
CSV_BLOCK_BYTES = 4 * 2**20
_WILD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class FoundFile:
    """A file of a source. name: stable between runs. path: within its file system."""

    name: str
    path: str
    size: int
    mtime_ns: int


class SourceFiles:
    """The files that a source has now, by name in ascending order; that is the order of its rows.

    base_dir: what a relative path is relative to. Raises SourceUnavailableError when the place can't be listed or no
    file matches.
    """

    def __init__(self, spec: FileSourceSpec, base_dir: Path) -> None:
        self._spec = spec
        try:
            self._system, self.files = _find(spec, base_dir)
        except (OSError, pa.ArrowException) as error:
            raise SourceUnavailableError(f"source {spec.path} can't be listed: {_line(error)}") from error
        if not self.files:
            looked_for = None if "://" in spec.path else f"a relative path is looked for from {base_dir}"
            raise SourceUnavailableError(f"source {spec.path}: no file matches", hint=looked_for)

    def schema(self, file: FoundFile) -> dict[str, pl.DataType]:
        """Columns of a file and their dtypes; of CSV all are String. Raises SourceError."""
        with _told(self._spec, file, self._system):
            if self._spec.format == "csv":
                with self._system.open_input_stream(file.path) as stream:
                    options = pacsv.ReadOptions(block_size=CSV_BLOCK_BYTES)
                    return dict.fromkeys(pacsv.open_csv(stream, read_options=options).schema.names, pl.String())
            with self._system.open_input_file(file.path) as stream:
                found = pq.ParquetFile(stream).schema_arrow
        return dict(cast(pl.DataFrame, pl.from_arrow(found.empty_table())).schema)

    def read(self, file: FoundFile, columns: list[str]) -> Iterator[pl.DataFrame]:
        """Rows of a file in order, some ten thousand at a time. Raises SourceError when it can't be read."""
        with _told(self._spec, file, self._system):
            if self._spec.format == "csv":
                with self._system.open_input_stream(file.path) as stream:
                    for batch in _csv_reader(stream, columns):
                        yield _frame(batch)
            else:
                with self._system.open_input_file(file.path) as stream:
                    parquet = pq.ParquetFile(stream)
                    for batch in parquet.iter_batches(batch_size=BATCH_ROWS, columns=columns, use_threads=False):
                        yield _frame(batch)

    def place(self, file: FoundFile) -> str:
        """A file as errors name it."""
        return f"file {file.name}"


def _find(spec: FileSourceSpec, base_dir: Path) -> tuple[Any, list[FoundFile]]:
    path, _, query = spec.path.partition("?") if "://" in spec.path else (spec.path, "", "")
    parts = path.split("/")
    wild = next((index for index, part in enumerate(parts) if _WILD.search(part)), len(parts))
    root, pattern = "/".join(parts[:wild]), "/".join(parts[wild:])
    if "://" in path:
        system, base = pafs.FileSystem.from_uri(root + (f"?{query}" if query else ""))
    else:
        system, base = pafs.LocalFileSystem(), str((base_dir / root).resolve() if root else base_dir.resolve())
        if path.startswith("/") and not root:
            base = "/"
    at = system.get_file_info(base)
    if at.type == pafs.FileType.File:
        return system, [_found(base.rsplit("/", 1)[-1], at)]
    if at.type == pafs.FileType.NotFound and not pattern:
        return system, []
    matches = _matcher(pattern or f"**/*.{spec.format}")
    selector = pafs.FileSelector(base, recursive=True, allow_not_found=True)
    found = []
    for info in system.get_file_info(selector):
        name = info.path[len(base.rstrip("/")) + 1 :]
        # Spark and others put files beside the data whose names begin so.
        hidden = any(part.startswith((".", "_")) for part in name.split("/"))
        if info.type == pafs.FileType.File and matches.fullmatch(name) and not hidden:
            found.append(_found(name, info))
    return system, sorted(found, key=lambda file: file.name)


def _found(name: str, info: Any) -> FoundFile:
    return FoundFile(name, info.path, info.size or 0, info.mtime_ns or 0)


def _matcher(pattern: str) -> re.Pattern[str]:
    """A glob as an expression: `*` and `?` stay within a folder, `**/` crosses any number of them."""
    out, rest = "", pattern
    while rest:
        if rest.startswith("**/"):
            out, rest = out + r"(?:[^/]+/)*", rest[3:]
        elif rest[0] == "*":
            out, rest = out + r"[^/]*", rest.lstrip("*")
        elif rest[0] == "?":
            out, rest = out + r"[^/]", rest[1:]
        elif rest[0] == "[" and "]" in rest[2:]:
            end = rest.index("]", 2)
            inside = rest[1:end].replace("\\", "\\\\")
            out, rest = out + f"[{'^' + inside[1:] if inside[0] == '!' else inside}]", rest[end + 1 :]
        else:
            out, rest = out + re.escape(rest[0]), rest[1:]
    return re.compile(out)


def _csv_reader(stream: Any, columns: list[str]) -> Any:
    # Everything is read as text and converted by us: what a column looks like must not depend on its first rows.
    return pacsv.open_csv(
        stream,
        read_options=pacsv.ReadOptions(block_size=CSV_BLOCK_BYTES),
        parse_options=pacsv.ParseOptions(newlines_in_values=True),
        convert_options=pacsv.ConvertOptions(
            include_columns=columns,
            column_types=dict.fromkeys(columns, pa.string()),
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
            null_values=[""],
        ),
    )


def _frame(batch: pa.RecordBatch) -> pl.DataFrame:
    return cast(pl.DataFrame, pl.from_arrow(pa.Table.from_batches([batch])))


@contextmanager
def _told(spec: FileSourceSpec, file: FoundFile, system: Any) -> Iterator[None]:
    """Turn errors of reading a file into ours: one that is gone or out of reach may come back, a damaged one not."""
    what = f"source {spec.path}: file {file.name}"
    try:
        yield
    except (pa.ArrowException, OSError) as error:
        # What pyarrow can't parse is an OSError as well, but one without a number; so is any error of an object store.
        system_error = isinstance(error, OSError) and error.errno is not None
        if system_error or (isinstance(error, OSError) and system.type_name != "local"):
            raise SourceUnavailableError(f"{what} can't be read: {_line(error)}") from error
        raise SourceError(
            f"{what} can't be read as {spec.format}: {_line(error)}", hint="write it anew, or move it away"
        ) from error


def _line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
