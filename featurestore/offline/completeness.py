"""Up to which window end the snapshots of a view version are final: a marker file beside its datasets.

    features/<view>/v<version>/_complete.json

One for all windows of the version, since they share the view's watermark. Its name begins with "_", which Spark, pandas
and pyarrow skip, and it lies above the folders with Parquet in them, for polars refuses a folder of mixed files.

Every process says on a board of its run how far its shards are; the marker follows the least over all shards. It never
claims more than is durable: what a process puts on the board is in files by then, and so is its shards' memory of it.
"""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

import msgspec

from featurestore.batches import NO_TIME
from featurestore.durations import format_instant, parse_instant_us
from featurestore.errors import StoreFormatError
from featurestore.offline.atomic import remove_durably, store_full_errors, write_atomically
from featurestore.offline.layout import version_dir

FORMAT_VERSION = 1
MARKER_NAME = "_complete.json"

Lines = Mapping[int, Mapping[str, int]]
"""By shard and "view@version": the window end, µs, up to which the rows are final and durable; NO_TIME when none is."""


class Marker(msgspec.Struct, frozen=True):
    """What the marker file says: rows with window_end <= complete_until are all there and change no more."""

    format_version: int
    view: str
    version: int
    complete_until: str
    written_at: str


class _Page(msgspec.Struct, frozen=True):
    """One process's share of the board."""

    run_id: str
    lines: dict[int, dict[str, int]]


def marker_path(root: Path, view: str, version: int) -> Path:
    """Where a view version's marker lies."""
    return version_dir(root, view, version) / MARKER_NAME


def read_marker_us(root: Path, view: str, version: int) -> int | None:
    """The window end, µs, up to which a view version is final; None when no marker was written yet.

    Raises StoreFormatError when it can't be understood.
    """
    path = marker_path(root, view, version)
    try:
        marker = msgspec.json.decode(path.read_bytes(), type=Marker)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise StoreFormatError(
            f"{path} can't be understood ({error})", hint="remove it: the worker writes it again when it goes on"
        ) from error
    return parse_instant_us(marker.complete_until)


def write_marker(root: Path, view: str, version: int, until_us: int) -> None:
    """Say, durably, up to which window end a view version is final: further than before, or less far."""
    now = datetime.now(timezone.utc).isoformat(timespec="seconds").replace("+00:00", "Z")
    marker = Marker(FORMAT_VERSION, view, version, format_instant(until_us), now)
    content = msgspec.json.format(msgspec.json.encode(marker)) + b"\n"
    write_atomically(marker_path(root, view, version), lambda file: file.write(content))


def remove_marker(root: Path, view: str, version: int) -> None:
    """Take the claim back, durably: before anything is done that could correct what it covers."""
    remove_durably([marker_path(root, view, version)])


class CompletenessBoard:
    """One process's way to the markers of a source's views.

    folder: of the source, shared by the processes of a run. run_id: other runs' pages do not count. shards: how many
    there are over all processes. versions: name and version of each view that is run.
    """

    def __init__(
        self, root: Path, folder: Path, run_id: str, process: int, shards: int, versions: Sequence[tuple[str, int]]
    ) -> None:
        self._root = root
        self._folder = folder
        self._run_id = run_id
        self._page = folder / f"process-{process}.json"
        self._shards = shards
        self._versions = versions
        folder.mkdir(parents=True, exist_ok=True)

    def publish(self, lines: Lines) -> None:
        """Say how far this process's shards are, and move the markers on when all shards have come further.

        lines: of every shard that this process owns; what they cover is in files, and the shards' own logs are durable.
        """
        page = _Page(self._run_id, {shard: dict(views) for shard, views in lines.items()})
        temporary = self._page.with_suffix(".tmp")
        with store_full_errors(self._page):
            temporary.write_bytes(msgspec.json.encode(page))
        # Whoever publishes last sees the pages of all others, so that the markers end where the run ended.
        with self._locked():
            temporary.replace(self._page)
            together = self._together()
            if len(together) < self._shards:
                return
            for view, version in self._versions:
                least = min(views.get(f"{view}@{version}", NO_TIME) for views in together.values())
                if least != NO_TIME and least > (read_marker_us(self._root, view, version) or NO_TIME):
                    write_marker(self._root, view, version, least)

    def _together(self) -> dict[int, dict[str, int]]:
        together: dict[int, dict[str, int]] = {}
        for path in self._folder.glob("process-*.json"):
            page = msgspec.json.decode(path.read_bytes(), type=_Page)
            if page.run_id == self._run_id:
                together |= page.lines
        return together

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self._folder / "LOCK").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield
