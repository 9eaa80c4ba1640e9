"""Reads of the online store: rows of a view as of now, or of a later instant than their newest event.

The shards are opened as secondaries: a reader never blocks the worker, and sees a commit when it next refreshes.
"""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
import rocksdict

from featurestore.batches import NO_TIME
from featurestore.compile.keys import shard_of
from featurestore.compile.reads import JointRead, plan_read
from featurestore.compile.view import CompiledFeature, CompiledView
from featurestore.compute.tiles import TileTable
from featurestore.compute.windows import TileIndex
from featurestore.definitions.specs import Scalar
from featurestore.errors import StoreError
from featurestore.online import layout
from featurestore.online.layout import StoredView
from featurestore.online.rocks import open_secondary, our_error, read_cache, rocks_errors, scan_keys
from featurestore.online.rows import RowDecoder
from featurestore.online.scratch import ScratchFolder
from featurestore.online.source_store import read_store_info
from featurestore.shard.protocol import ViewState

PLANS_KEPT = 1024

Status = Literal["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]


class FeatureColumn(NamedTuple):
    """Values of one feature for the entities asked, Python scalars, and their statuses; both of shape (entities,).

    Columns may share one list of statuses.
    """

    values: list[Scalar]
    statuses: list[Status]


@dataclass(frozen=True)
class _ReadPlan:
    """A read of some features of one view, with all that does not depend on the entities worked out."""

    joint: JointRead
    decoder: RowDecoder
    defaults: tuple[tuple[str, Scalar], ...]


@dataclass(frozen=True)
class ViewRead:
    """What a read of one view gave. event_times_us: newest event of each row, 0 where there is none."""

    columns: dict[str, FeatureColumn]
    event_times_us: list[int]


class _ShardReader:
    def __init__(self, path: Path, scratch: Path, cache: rocksdict.Cache) -> None:
        self._path = path
        self._scratch = scratch
        self._cache = cache
        self._opened = 0
        self._lock = threading.Lock()
        self._seen: object = None
        self._db, self._manifest, self._logs = self._open()

    def refresh(self) -> bool:
        """Catch up with the primary when its files changed; whether they had."""
        files = _growing_files(self._path)
        if files == self._seen:
            return False
        logs = _logs(files)
        if _manifest(self._path) == self._manifest and self._logs <= logs:
            self._logs = logs
            with self._lock, rocks_errors(self._path):
                self._db.try_catch_up_with_primary()
        else:
            # The primary moved a log into a table, as it does when it is opened, when it is closed and when its memory
            # is full. A secondary that had not read the log's last records would go on answering from its memory, which
            # it asks before the tables.
            db, manifest, logs = self._open()
            with self._lock:
                old, self._db, self._manifest, self._logs = self._db, db, manifest, logs
            old.close()
            shutil.rmtree(self._scratch_folder(self._opened - 1), ignore_errors=True)
        self._seen = files
        return True

    def get(self, keys: list[bytes]) -> list[bytes | None]:
        with self._lock:
            try:
                values: list[bytes | None] = self._db.get(keys)  # type: ignore[arg-type, assignment]
            except Exception as error:  # entering `rocks_errors` for every get would cost 2 µs
                ours = our_error(self._path, error)
                if ours is None:
                    raise
                raise ours from error
        return values

    def keys(self, prefix: bytes) -> Iterator[bytes]:
        with rocks_errors(self._path):
            yield from scan_keys(self._db, prefix, layout.after_prefix(prefix))

    def close(self) -> None:
        self._db.close()

    def _open(self) -> tuple[rocksdict.Rdict, str, set[str]]:
        # Looked at before: what happens while it is being opened is seen by the next refresh.
        manifest, logs = _manifest(self._path), _logs(_growing_files(self._path))
        self._opened += 1
        return open_secondary(self._path, self._scratch_folder(self._opened), self._cache), manifest, logs

    def _scratch_folder(self, opened: int) -> Path:
        return self._scratch.with_name(f"{self._scratch.name}-{opened}")


def _manifest(path: Path) -> str:
    """Name of the manifest in force; a primary begins a new one whenever it is opened."""
    try:
        return (path / "CURRENT").read_text()
    except OSError as error:
        raise StoreError(f"shard {path} can't be read: {error.strerror}") from error


def _growing_files(path: Path) -> list[tuple[str, int]]:
    """Name and size of the files that grow when the primary writes, and when CURRENT was replaced."""
    files = []
    try:
        entries = os.scandir(path)
    except OSError as error:
        raise StoreError(f"shard {path} can't be read: {error.strerror}") from error
    with entries:
        for entry in entries:
            # The primary removes old files at any moment.
            with suppress(FileNotFoundError):
                if entry.name == "CURRENT":
                    files.append((entry.name, entry.stat().st_mtime_ns))
                elif entry.name.endswith(".log") or entry.name.startswith("MANIFEST"):
                    files.append((entry.name, entry.stat().st_size))
    return sorted(files)


def _logs(files: list[tuple[str, int]]) -> set[str]:
    """Names of the write-ahead logs among `_growing_files`."""
    return {name for name, _ in files if name.endswith(".log")}


class OnlineReader:
    """Reads one source's shards. Safe for several threads; `refresh` may run beside reads.

    Raises StoreError when the store was never made (no worker has run yet).
    """

    def __init__(self, data_dir: Path, source: str) -> None:
        info = read_store_info(data_dir, source)
        if info is None:
            raise StoreError(
                f"source '{source}' has no online store under {data_dir}",
                hint="start a worker: featurestore run MODULE",
            )
        self.incarnation = info.incarnation
        self._scratch = ScratchFolder("reader")
        cache = read_cache()
        try:
            self._shards = [
                _ShardReader(layout.shard_dir(data_dir, source, shard), self._scratch.path / f"{shard:04d}", cache)
                for shard in range(info.shards)
            ]
        except StoreError:
            self._scratch.remove()
            raise
        self._states: dict[tuple[int, bytes], ViewState] = {}
        self._latest: dict[bytes, int] = {}
        self._plans: dict[tuple[int, int, tuple[str, ...]], _ReadPlan] = {}
        self._state_decoder = msgspec.msgpack.Decoder(ViewState)

    def refresh(self) -> None:
        """Catch up with the worker, one shard after another, skipping those that did not change."""
        for number, shard in enumerate(self._shards):
            if shard.refresh():
                # New dicts, not changed ones: a read under way puts what it saw before the catch-up into the old.
                self._states = {key: state for key, state in self._states.items() if key[0] != number}
                self._latest = {}

    def states(self, view: CompiledView) -> list[ViewState]:
        """The view's state in every shard that has one."""
        key = layout.state_key(view)
        states = self._states
        found = []
        for number, shard in enumerate(self._shards):
            state = states.get((number, key))
            if state is None:
                value = shard.get([key])[0]
                if value is None:
                    continue
                state = states[(number, key)] = self._state_decoder.decode(value)
            found.append(state)
        return found

    def latest_us(self, view: CompiledView) -> int:
        """Just after the largest accepted event time of the source, as the view has seen it; NO_TIME before any."""
        key, latest = layout.state_key(view), self._latest
        if key not in latest:
            times = [fence.max_event_time_us for state in self.states(view) for fence in state.fences.values()]
            newest = max(times, default=NO_TIME)
            latest[key] = newest if newest == NO_TIME else newest + 1
        return latest[key]

    def read(self, view: CompiledView, keys: Sequence[str | None], features: Sequence[str], as_of_us: int) -> ViewRead:
        """Values of `features` for encoded entity keys (None: a null join key, never found) as of `as_of_us`.

        For an instant before an entity's newest event the newest tile may know too much; exact reads of the past are
        the point-in-time join's job.
        """
        plan = self._plan(view, features)
        rows = plan.decoder.decode(self.fetch(view, keys))
        newest = rows.newest_us.tolist()
        standing = _standing(newest, rows.tiles, as_of_us, view.spec.ttl_us)
        values = plan.joint.values(TileIndex(rows.tiles, len(keys)), len(keys), as_of_us)
        if any(standing):
            columns = {name: _column(values[name], standing, default) for name, default in plan.defaults}
        else:
            present: list[Status] = ["PRESENT"] * len(keys)
            columns = {name: _known_column(values[name], present) for name in features}
        return ViewRead(columns, [0 if time == NO_TIME else time for time in newest])

    def keys(self, view: StoredView) -> list[Iterator[bytes]]:
        """Encoded keys of the entities that have a row, UTF-8: an ascending iterator for each shard.

        A scan of all of them, valid until the next `refresh`. Two versions of a view have an entity in the same shard.
        """
        prefix = layout.row_prefix(view)
        return [(key[len(prefix) :] for key in shard.keys(prefix)) for shard in self._shards]

    def get_value(self, key: bytes) -> bytes | None:
        """A stored value of the first shard; for stores that have but one."""
        return self._shards[0].get([key])[0]

    def close(self) -> None:
        """Close the shards and remove the scratch folder."""
        for shard in self._shards:
            shard.close()
        self._scratch.remove()

    def _plan(self, view: CompiledView, features: Sequence[str]) -> _ReadPlan:
        key = (view.view_id, view.version, tuple(features))
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            joint = plan_read(view, features)
            defaults = tuple((name, _typed_default(view.features[name])) for name in features)
            decoder = RowDecoder(view, slots=joint.slots, lazy_text=True)
            plan = self._plans[key] = _ReadPlan(joint, decoder, defaults)
        return plan

    def fetch(self, view: StoredView, keys: Sequence[str | None]) -> list[bytes | None]:
        """Stored rows of encoded keys, None for no key; one multi-get a shard (sorting them gains nothing)."""
        shards = self._shards
        prefix = layout.row_prefix(view)
        if len(keys) == 1 and keys[0] is not None:
            key = keys[0].encode()
            return shards[shard_of(key, len(shards))].get([prefix + key])
        by_shard: dict[int, tuple[list[int], list[bytes]]] = {}
        for position, text in enumerate(keys):
            if text is not None:
                key = text.encode()
                positions, wanted = by_shard.setdefault(shard_of(key, len(shards)), ([], []))
                positions.append(position)
                wanted.append(prefix + key)
        out: list[bytes | None] = [None] * len(keys)
        for shard, (positions, wanted) in by_shard.items():
            for position, value in zip(positions, shards[shard].get(wanted), strict=True):
                out[position] = value
        return out


def _typed_default(feature: CompiledFeature) -> Scalar:
    """A Float64 feature's default as a float, however it was written."""
    is_int = type(feature.default) is int and feature.output_dtype == "Float64"
    return float(feature.default) if is_int else feature.default  # type: ignore[arg-type]


def _standing(newest_us: Sequence[int], tiles: TileTable, as_of_us: int, ttl_us: int) -> list[Status | None]:
    """Of each entity NOT_FOUND without an event before `as_of_us`, OUTSIDE_MAX_AGE past the ttl, None otherwise."""
    oldest_us = as_of_us - ttl_us if ttl_us else NO_TIME
    standing: list[Status | None] = []
    for entity, newest in enumerate(newest_us):
        if newest == NO_TIME:
            standing.append("NOT_FOUND")
        elif newest < as_of_us:
            standing.append("OUTSIDE_MAX_AGE" if newest < oldest_us else None)
        else:
            # Read as of an instant before its newest event: a tile that begins earlier tells that it was known.
            earlier = bool((tiles.start[tiles.entity == entity] < as_of_us).any())
            standing.append(None if earlier else "NOT_FOUND")
    return standing


def _known_column(values: list[Scalar], present: list[Status]) -> FeatureColumn:
    if None not in values:
        return FeatureColumn(values, present)
    return FeatureColumn(values, ["NULL_VALUE" if value is None else "PRESENT" for value in values])


def _column(values: list[Scalar], standing: Sequence[Status | None], default: Scalar) -> FeatureColumn:
    out: list[Scalar] = []
    statuses: list[Status] = []
    for value, status in zip(values, standing, strict=True):
        if status is None:
            status = "NULL_VALUE" if value is None else "PRESENT"
        elif status == "NOT_FOUND":
            value = default
        else:
            value = None
        out.append(value)
        statuses.append(status)
    return FeatureColumn(out, statuses)
