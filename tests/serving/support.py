"""A small source with two views, a store that a test writes, and servers over it."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import numpy as np
import polars as pl
import uvicorn

from featurestore.batches import NO_TIME, PartitionProgress
from featurestore.compile.bind import BoundView
from featurestore.compile.keys import encoded_key, shard_expr
from featurestore.compile.view import CompiledView, compile_view
from featurestore.definitions.resolve import ResolvedDefinitions
from featurestore.definitions.specs import EntitySpec, FeatureSpec, JoinKeySpec, SourceSpec, ViewSpec
from featurestore.online import layout
from featurestore.online.rocks import RocksMemory
from featurestore.online.shard_store import RocksShardStore
from featurestore.online.source_store import open_source_store
from featurestore.registry import Registry
from featurestore.serving.app import build_app
from featurestore.serving.limits import Limits
from featurestore.serving.metrics import ServingMetrics
from featurestore.serving.server import bind, follow, url_of
from featurestore.serving.service import CHECK_INTERVAL_S, FeatureService
from featurestore.serving.transport import OneWriteProtocol
from featurestore.shard.processor import ShardProcessor
from featurestore.shard.protocol import Fence, ShardBatch
from tests.factories import LIFETIME, MINUTE, sliding, source_spec

SECOND = 1_000_000
NOON = 1_795_435_200_000_000
"""2026-11-23T12:00:00Z in µs."""
SHARDS = 3
ROOT = Path(__file__).resolve().parents[2]

SOURCE: SourceSpec = source_spec(out_of_orderness_us=5 * SECOND, lateness_us=MINUTE)

CARD = ViewSpec(
    name="card_activity",
    source=SOURCE.name,
    entities=(EntitySpec(name="card", join_keys=(JoinKeySpec(name="card_id", dtype="String"),)),),
    features=(
        FeatureSpec(name="count_10m", function="count", window=sliding(10), output_dtype="Int64"),
        FeatureSpec(
            name="amount_sum_10m",
            function="sum",
            window=sliding(10),
            output_dtype="Float64",
            column="amount",
            input_dtype="Float64",
        ),
        FeatureSpec(
            name="amount_max_10m",
            function="max",
            window=sliding(10),
            output_dtype="Float64",
            column="amount",
            input_dtype="Float64",
            default=0,
        ),
        FeatureSpec(
            name="merchant_last",
            function="last",
            window=LIFETIME,
            output_dtype="String",
            column="merchant",
            input_dtype="String",
        ),
    ),
    ttl_us=60 * MINUTE,
)
ACCOUNT = ViewSpec(
    name="account_activity",
    source=SOURCE.name,
    entities=(
        EntitySpec(
            name="account",
            join_keys=(
                JoinKeySpec(name="account", dtype="Int64"),
                JoinKeySpec(name="region", dtype="String"),
            ),
        ),
    ),
    features=(FeatureSpec(name="count_10m", function="count", window=sliding(10), output_dtype="Int64"),),
)
VIEWS = (CARD, ACCOUNT)


def _last(column: str, dtype: str) -> FeatureSpec:
    return FeatureSpec(
        name=f"{column}_last", function="last", window=LIFETIME, output_dtype=dtype, column=column, input_dtype=dtype
    )


LASTS = (_last("amount", "Float64"), _last("merchant", "String"), _last("number", "Int64"), _last("flag", "Boolean"))
"""The newest value of every type that a feature can have."""
BY_NUMBER = ViewSpec(
    name="by_number",
    source=SOURCE.name,
    entities=(EntitySpec(name="number", join_keys=(JoinKeySpec(name="account", dtype="Int64"),)),),
    features=LASTS,
)
BY_TEXT = ViewSpec(
    name="by_text",
    source=SOURCE.name,
    entities=(EntitySpec(name="text", join_keys=(JoinKeySpec(name="card_id", dtype="String"),)),),
    features=LASTS,
)
BY_FLAG = ViewSpec(
    name="by_flag",
    source=SOURCE.name,
    entities=(EntitySpec(name="flag", join_keys=(JoinKeySpec(name="flag", dtype="Boolean"),)),),
    features=LASTS,
)
BY_ALL = ViewSpec(
    name="by_all",
    source=SOURCE.name,
    entities=(
        EntitySpec(
            name="all",
            join_keys=(
                JoinKeySpec(name="flag", dtype="Boolean"),
                JoinKeySpec(name="account", dtype="Int64"),
                JoinKeySpec(name="card_id", dtype="String"),
            ),
        ),
    ),
    features=LASTS,
)
TYPED_VIEWS = (BY_NUMBER, BY_TEXT, BY_FLAG, BY_ALL)
"""A view for every type of join key, and one for all together."""

Event = tuple[str, int, str, float | None, str, int, bool, int]
"""card_id, account, region, amount, merchant, number, flag, event time in µs."""
_SCHEMA = {
    "card_id": pl.String,
    "account": pl.Int64,
    "region": pl.String,
    "amount": pl.Float64,
    "merchant": pl.String,
    "number": pl.Int64,
    "flag": pl.Boolean,
    "event_time": pl.Int64,
}


def event(
    card: str = "c1",
    *,
    amount: float | None = 1.0,
    merchant: str = "m1",
    account: int = 1,
    region: str = "eu",
    number: int = 0,
    flag: bool = False,
    at_us: int = NOON,
) -> Event:
    return (card, account, region, amount, merchant, number, flag, at_us)


def register(data_dir: Path, views: Sequence[ViewSpec] = VIEWS) -> None:
    """Apply the views, as `featurestore apply` does."""
    registry = Registry.open(data_dir / "registry" / "registry.db", create=True)
    resolved = ResolvedDefinitions({SOURCE.name: SOURCE}, {view.name: view for view in views})
    registry.apply(registry.plan(resolved))
    registry.close()


def registered_views(data_dir: Path) -> list[CompiledView]:
    registry = Registry.open(data_dir / "registry" / "registry.db", create=False)
    views = [compile_view(v.spec, SOURCE, view_id=v.view_id, version=v.version) for v in registry.views()]
    registry.close()
    return views


class Writer:
    """A worker's share: has the shards of the source open as their primary, commits what it is given."""

    def __init__(self, data_dir: Path) -> None:
        open_source_store(data_dir, SOURCE.name, SHARDS)
        self._bound = [BoundView(view) for view in registered_views(data_dir)]
        memory = RocksMemory()
        folders = [layout.shard_dir(data_dir, SOURCE.name, shard) for shard in range(SHARDS)]
        self._stores = [RocksShardStore(folder, memory) for folder in folders]
        initial = {view.compiled.reference: {0: Fence(0)} for view in self._bound}
        self._processors = [ShardProcessor(self._bound, "g1", [0], store, initial) for store in self._stores]
        fences = [self._fence(store) for store in self._stores]
        # A kill between two shards leaves one behind: events from there on are brought again.
        self.next_offset = min(fence.next_offset for fence in fences)
        self._newest_us = max(fence.max_event_time_us for fence in fences)

    def _fence(self, store: RocksShardStore) -> Fence:
        state = store.read_state(self._bound[0].compiled)
        return (state.fence("g1", 0) if state else None) or Fence(0)

    def events_of(self, card: str) -> int:
        """How many events of the card the store holds."""
        view = next(view.compiled for view in self._bound if view.compiled.name == CARD.name)
        rows = [store.read_rows(view, [card]) for store in self._stores]
        return sum(int(np.asarray(row.tiles.fields["count"]).sum()) for row in rows)

    def commit(self, events: Sequence[Event]) -> None:
        frame = pl.DataFrame(events, schema=_SCHEMA, orient="row").with_columns(
            pl.lit(0, dtype=pl.Int32).alias("_partition"),
            pl.Series("_offset", range(self.next_offset, self.next_offset + len(events)), dtype=pl.Int64),
            pl.lit(NO_TIME, dtype=pl.Int64).alias("_partition_watermark"),
        )
        first, self.next_offset = self.next_offset, self.next_offset + len(events)
        self._newest_us = max([self._newest_us, *(row[-1] for row in events)])
        progress = (PartitionProgress(0, first, self.next_offset, self._newest_us),)
        for shard, processor in enumerate(self._processors):
            slices = {}
            for view in self._bound:
                keyed = frame.with_columns(encoded_key(view.compiled.spec.join_keys).alias("_key"))
                slices[view.group] = keyed.filter(shard_expr(pl.col("_key"), SHARDS) == shard)
            processor.receive(ShardBatch(slices, progress))
            processor.commit()

    def close(self) -> None:
        for store in self._stores:
            store.close()


def write_store(data_dir: Path, events: Sequence[Event]) -> None:
    writer = Writer(data_dir)
    if events:
        writer.commit(events)
    writer.close()


@contextlib.contextmanager
def served(service: FeatureService, *, refresh_s: float = 0.02, limits: Limits | None = None) -> Iterator[str]:
    """The service behind a real server in a thread; gives its URL."""
    listener = bind("127.0.0.1", 0)
    app = build_app(service, ServingMetrics(), limits)
    server = uvicorn.Server(uvicorn.Config(app, http=OneWriteProtocol, lifespan="off", log_config=None))
    stop = threading.Event()
    threads = [
        threading.Thread(target=server.run, kwargs={"sockets": [listener]}),
        threading.Thread(target=follow, args=(service.refresh, refresh_s, stop)),
        threading.Thread(target=follow, args=(service.reload, CHECK_INTERVAL_S, stop)),
    ]
    for thread in threads:
        thread.start()
    try:
        yield url_of(listener)
    finally:
        stop.set()
        server.should_exit = True
        for thread in threads:
            thread.join()
        service.close()
        listener.close()


@contextlib.contextmanager
def serve_command(data_dir: Path, *options: str, **environment: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """`featurestore serve` in a process of its own, with these environment variables; gives it and its URL."""
    command = [sys.executable, "-m", "featurestore", "serve", "--port", "0", "--data-dir", str(data_dir)]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, **environment},
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert " at http" in line, process.communicate()
        url = line.rsplit(" ", 1)[1].strip()
        eventually(lambda: answers(url))
        yield process, url
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=1).status_code == 200
    except httpx.TransportError:
        return False


def eventually(condition: Callable[[], object], *, within_s: float = 15.0) -> None:
    """Wait until `condition` holds."""
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "it never came true"
        time.sleep(0.01)
