"""Reads of the online store: rows of a view as of now, or of a later instant than their newest event.

The shards are opened as secondaries: a reader never blocks the worker, and sees a commit when it next refreshes.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import rocksdict

from featurestore.batches import NO_TIME
from featurestore.compile.keys import shards_of
from featurestore.compile.reads import JointRead, plan_read
from featurestore.compile.view import CompiledView
from featurestore.compute.tiles import BASE_START
from featurestore.compute.windows import TileIndex
from featurestore.definitions.specs import Scalar
from featurestore.errors import StoreError
from featurestore.online import layout
from featurestore.online.rocks import open_secondary, rocks_errors
from featurestore.online.rows import decode_rows
from featurestore.online.source_store import read_store_info
from featurestore.shard.protocol import ViewState

PLANS_KEPT = 1024

Status = Literal["PRESENT", "NULL_VALUE", "NOT_FOUND", "OUTSIDE_MAX_AGE"]


@dataclass(frozen=True)
class FeatureColumn:
    """Values of one feature for the entities asked, Python scalars, and their statuses; both of shape (entities,)."""

    values: list[Scalar]
    statuses: list[Status]


@dataclass(frozen=True)
class ViewRead:
    """What a read of one view gave. event_times_us: newest event of each row, 0 where there is none."""

    columns: dict[str, FeatureColumn]
    event_times_us: list[int]


class _ShardReader:
    def __init__(self, path: Path, scratch: Path) -> None:
        self._path = path
        self._scratch = scratch
        self._opened = 0
        self._lock = threading.Lock()
        self._seen: object = None
        self._db, self._manifest = self._open()

    def refresh(self) -> bool:
        """Catch up with the primary when its files changed; whether they had."""
        files = _growing_files(self._path)
        if files == self._seen:
            return False
        if _manifest(self._path) == self._manifest:
            with self._lock, rocks_errors(self._path):
                self._db.try_catch_up_with_primary()
        else:
            # The primary was opened anew, which moves its log into a table. A secondary that had not read the
            # log's last records would go on answering from its memory, which it asks before the tables.
            db, manifest = self._open()
            with self._lock:
                old, self._db, self._manifest = self._db, db, manifest
            old.close()
        self._seen = files
        return True

    def get(self, keys: list[bytes]) -> list[bytes | None]:
        with self._lock, rocks_errors(self._path):
            values: list[bytes | None] = self._db.get(keys)  # type: ignore[arg-type, assignment]
        return values

    def close(self) -> None:
        self._db.close()

    def _open(self) -> tuple[rocksdict.Rdict, str]:
        manifest = _manifest(self._path)
        self._opened += 1
        scratch = self._scratch.with_name(f"{self._scratch.name}-{self._opened}")
        return open_secondary(self._path, scratch), manifest


def _manifest(path: Path) -> str:
    """Name of the manifest in force; a primary begins a new one whenever it is opened."""
    try:
        return (path / "CURRENT").read_text()
    except OSError as error:
        raise StoreError(f"shard {path} can't be read: {error.strerror}") from error


def _growing_files(path: Path) -> list[tuple[str, int]]:
    """Name and size of the files that grow when the primary writes, and when CURRENT was replaced."""
    files = []
    with os.scandir(path) as entries:
        for entry in entries:
            # The primary removes old files at any moment.
            with suppress(FileNotFoundError):
                if entry.name == "CURRENT":
                    files.append((entry.name, entry.stat().st_mtime_ns))
                elif entry.name.endswith(".log") or entry.name.startswith("MANIFEST"):
                    files.append((entry.name, entry.stat().st_size))
    return sorted(files)


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
        self._scratch = Path(tempfile.mkdtemp(prefix="featurestore-reader-"))
        self._shards = [
            _ShardReader(layout.shard_dir(data_dir, source, shard), self._scratch / f"{shard:04d}")
            for shard in range(info.shards)
        ]
        self._states: dict[tuple[int, bytes], ViewState] = {}
        self._latest: dict[bytes, int] = {}
        self._plans: dict[tuple[int, int, tuple[str, ...]], JointRead] = {}
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
        values = self._fetch(view, keys)
        rows = decode_rows(view, values)
        known, aged = self._known(view, rows.newest_us, rows.tiles.entity, rows.tiles.start, as_of_us)
        index = TileIndex(rows.tiles, len(keys))
        values_of = self._plan(view, features).values(index, len(keys), as_of_us)
        found = {name: _column(values_of[name], known, aged, view.features[name].default) for name in features}
        return ViewRead(found, [0 if time == NO_TIME else time for time in rows.newest_us.tolist()])

    def close(self) -> None:
        """Close the shards and remove the scratch folder."""
        for shard in self._shards:
            shard.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def _plan(self, view: CompiledView, features: Sequence[str]) -> JointRead:
        key = (view.view_id, view.version, tuple(features))
        plan = self._plans.get(key)
        if plan is None:
            if len(self._plans) >= PLANS_KEPT:
                self._plans.clear()
            plan = self._plans[key] = plan_read(view, features)
        return plan

    def _fetch(self, view: CompiledView, keys: Sequence[str | None]) -> list[bytes | None]:
        prefix = layout.row_prefix(view)
        present = [(position, key) for position, key in enumerate(keys) if key is not None]
        out: list[bytes | None] = [None] * len(keys)
        by_shard: dict[int, list[tuple[int, bytes]]] = {}
        shards = shards_of([key for _, key in present], len(self._shards))
        for (position, key), shard in zip(present, shards, strict=True):
            by_shard.setdefault(shard, []).append((position, prefix + key.encode()))
        for shard, wanted in by_shard.items():
            for (position, _), value in zip(wanted, self._shards[shard].get([key for _, key in wanted]), strict=True):
                out[position] = value
        return out

    @staticmethod
    def _known(
        view: CompiledView, newest_us: np.ndarray, entity: np.ndarray, start_us: np.ndarray, as_of_us: int
    ) -> tuple[list[bool], list[bool]]:
        """Whether each entity has an event before as_of, and whether its newest is older than the view's ttl."""
        before = np.zeros(len(newest_us), dtype=bool)
        before[entity[(start_us < as_of_us) | (start_us == BASE_START)]] = True
        # A row whose tiles have all expired was seen once, even so.
        before |= (newest_us != NO_TIME) & (newest_us < as_of_us)
        ttl = view.spec.ttl_us
        aged = before & (newest_us < as_of_us - ttl) if ttl else np.zeros(len(newest_us), dtype=bool)
        return before.tolist(), aged.tolist()


def _column(values: list[Scalar], known: list[bool], aged: list[bool], default: Scalar) -> FeatureColumn:
    if all(known) and not any(aged):
        return FeatureColumn(values, ["NULL_VALUE" if value is None else "PRESENT" for value in values])
    statuses: list[Status] = []
    out: list[Scalar] = []
    for value, is_known, is_aged in zip(values, known, aged, strict=True):
        if not is_known:
            out.append(default)
            statuses.append("NOT_FOUND")
        elif is_aged:
            out.append(None)
            statuses.append("OUTSIDE_MAX_AGE")
        else:
            out.append(value)
            statuses.append("NULL_VALUE" if value is None else "PRESENT")
    return FeatureColumn(out, statuses)
