"""Answers reads: what to read, as of when, and the answer's columns. Knows no HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import repeat
from pathlib import Path
from typing import Any, Literal

from featurestore.batches import NO_TIME
from featurestore.compile.keys import encode_entities
from featurestore.definitions.specs import JoinKeySpec
from featurestore.errors import FeatureStoreError, MalformedRequestError, NoRegistryError, ServerUnavailableError
from featurestore.online.reader import ViewRead
from featurestore.registry import registry_file
from featurestore.registry.served import DefinitionsFollower
from featurestore.serving.catalog import Catalog, ReadPlan, ServedView, make_catalog
from featurestore.serving.protocol import (
    LATEST,
    NO_TIMESTAMP,
    OnlineRequest,
    OnlineResponse,
    ResponseMetadata,
    ResultColumn,
    ViewVersion,
    parse_as_of,
    wire_floats,
    wire_timestamps,
)
from featurestore.serving.readers import SourceReaders, ViewReader
from featurestore.serving.usage import Usage

Clock = Literal["wall", "event"]
CHECK_INTERVAL_S = 1.0
"""How often the registry and the stores' existence are looked at; open stores are followed at every
refresh."""


def wall_now_us() -> int:
    """The wall clock, µs since the epoch."""
    return time.time_ns() // 1000


@dataclass(frozen=True)
class Readiness:
    """Whether reads can be answered. reason: why not. missing_stores: sources, and
    "batch-views/…" for batch views, that have none."""

    ready: bool
    reason: str
    views: int
    missing_stores: list[str]


@dataclass(frozen=True)
class ReadObserved:
    """What one view's read gave, for metrics. statuses: of all its feature columns."""

    view: str
    seconds: float
    statuses: Sequence[Sequence[str]]


class FeatureService:
    """Reads of the applied views in `data_dir`.

    Answers what it saw at the last `refresh`; `answer` may run in any thread beside it. clock: "wall" reads
    as of now, "event" as of the newest event of the view's source (of a batch view: its newest row). observe: told of
    every view read. registry_place: path or URL, None for the registry in the data_dir. usage: told of every read.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        clock: Clock = "wall",
        now_us: Callable[[], int] = wall_now_us,
        observe: Callable[[ReadObserved], None] | None = None,
        registry_place: Path | str | None = None,
        usage: Usage | None = None,
    ) -> None:
        self._registry_place = registry_place or registry_file(data_dir)
        self._follower = DefinitionsFollower(self._registry_place, data_dir / "registry" / "served.json")
        self._clock = clock
        self._now_us = now_us
        self._observe = observe
        self._usage = usage
        self._readers = SourceReaders(data_dir)
        self._catalog = Catalog({})
        self._problem = "nothing was read of the registry yet"
        self._checked_s = float("-inf")
        self._refreshing = threading.Lock()

    def refresh(self, *, check: bool = False) -> None:
        """Catch up with workers and, once a second (or when `check`), with new stores.

        check: look at the registry too, as `reload` does. Raises FeatureStoreError when something could not be
        followed; what was seen before still answers.
        """
        if check:
            self.reload()
        with self._refreshing:
            now_s = time.monotonic()
            if check or now_s - self._checked_s >= CHECK_INTERVAL_S:
                self._checked_s = now_s
                self._readers.open(self._catalog.stores)
            self._readers.refresh()

    def reload(self) -> None:
        """Catch up with the registry, which may take its time over a network: one thread does it, no read waits.

        Raises RegistryError while it can't be read; what was read before goes on being served.
        """
        try:
            served = self._follower.poll()
        except NoRegistryError as error:
            self._catalog, self._problem = Catalog({}), error.message
            return
        except FeatureStoreError as error:
            self._problem = error.message
            raise
        self._problem = ""
        if served is not None:
            self._catalog = make_catalog(served)
            self._checked_s = float("-inf")  # its stores are opened with the next refresh

    def answer(self, request: OnlineRequest, consumer: bytes = b"") -> OnlineResponse:
        """Answer a read. consumer: who asks, where the request's header says so.

        Raises RequestError for a caller's mistake, ServerUnavailableError with no store.
        """
        asked = _asked(request)
        catalog = self._served()
        as_of = parse_as_of(request.as_of)
        plan = catalog.plan(asked, request.full_feature_names)
        rows = _row_count(request.entities, plan.join_keys)
        if as_of is None:
            as_of = LATEST if self._clock == "event" else self._now_us()
        columns: list[ResultColumn | None] = [None] * len(plan.names)
        answered: list[ServedView] = []
        encoded: dict[tuple[JoinKeySpec, ...], list[str | None]] = {}
        for part in plan.parts:
            join_keys = part.view.spec.join_keys
            keys = encoded.get(join_keys)
            if keys is None:
                keys = encoded[join_keys] = encode_entities(join_keys, request.entities)
            view = part.version_for(keys)
            answered.append(view)
            read = self._read(view, part.features, keys, as_of)
            times = wire_timestamps(read.event_times_us)
            for name, position in zip(part.features, part.positions, strict=True):
                column = read.columns[name]
                values = wire_floats(column.values) if plan.dtypes[position] == "Float64" else column.values
                columns[position] = ResultColumn(values, column.statuses, times)  # type: ignore[arg-type]
        no_times = list(repeat(NO_TIMESTAMP, rows))
        results = [_key_column(request.entities[key.name], no_times) for key in plan.join_keys]
        results.extend(column for column in columns if column is not None)
        if self._usage is not None:
            self._usage.count(plan, answered, consumer or request.feature_service or "")
        return OnlineResponse(_metadata(request, plan, answered), results)

    def readiness(self) -> Readiness:
        """Ready once views are applied and the store of at least one of their sources is open."""
        views = len(self._catalog.views)
        stores = self._catalog.stores
        missing = self._readers.missing(stores)
        if not views:
            return Readiness(False, self._problem or "no view is applied", 0, [])
        if len(missing) == len(stores):
            return Readiness(False, "no online store yet: no worker has run, nothing was materialized", views, missing)
        return Readiness(True, "", views, missing)

    def latest_us(self) -> dict[str, int]:
        """By view: just after the newest event that it has seen; views without one are left out."""
        out: dict[str, int] = {}
        for view in self._catalog.views.values():
            if not self._readers.missing([view.store]):
                newest = self._readers.get(view.store).latest_us(view)
                if newest != NO_TIME:
                    out[view.name] = newest
        return out

    def feature_count(self, request: OnlineRequest) -> int:
        """How many features a request asks for, one by one or by a service; 0 for a service that there is not."""
        if request.feature_service is None:
            return len(request.features or ())
        service = self._catalog.services.get(request.feature_service)
        return 0 if service is None else len(service.references)

    def join_keys(self, request: OnlineRequest) -> tuple[JoinKeySpec, ...]:
        """The join keys that a request's features need; errors as `answer` raises them."""
        return self._served().plan(_asked(request), full_feature_names=True).join_keys

    def close(self) -> None:
        """Close the stores."""
        with self._refreshing:
            self._readers.close()
            self._follower.close()

    def _served(self) -> Catalog:
        catalog = self._catalog
        if not catalog.views and self._problem:
            raise ServerUnavailableError(self._problem, hint="apply definitions: featurestore apply MODULE")
        return catalog

    def _read(
        self, view: ServedView, features: Sequence[str], keys: Sequence[str | None], as_of: int | str
    ) -> ViewRead:
        reader = self._readers.get(view.store)
        started = time.perf_counter()
        as_of_us = as_of if isinstance(as_of, int) else self._latest_us(reader, view)
        read = reader.read(view, keys, features, as_of_us)
        if self._observe is not None:
            statuses = [column.statuses for column in read.columns.values()]
            self._observe(ReadObserved(view.name, time.perf_counter() - started, statuses))
        return read

    def _latest_us(self, reader: ViewReader, view: ServedView) -> int:
        newest = reader.latest_us(view)
        return self._now_us() if newest == NO_TIME else newest


def _asked(request: OnlineRequest) -> Sequence[str] | str:
    """The features, or the name of the service. Raises MalformedRequestError for both and for neither."""
    if request.features and request.feature_service is not None:
        raise MalformedRequestError(
            "the request names features and a feature_service", hint="name one of them: a service has its features"
        )
    if request.feature_service is not None:
        return request.feature_service
    if not request.features:
        raise MalformedRequestError(
            "the request names neither features nor a feature_service",
            hint='send "features": ["view:feature"], or "feature_service": "name"',
        )
    return request.features


def _row_count(entities: dict[str, list[Any]], join_keys: Sequence[JoinKeySpec]) -> int:
    missing = [key.name for key in join_keys if key.name not in entities]
    if missing:
        raise MalformedRequestError(
            f"entity column '{missing[0]}' is missing",
            hint=f'send "entities": {{"{missing[0]}": [value, ...]}}',
        )
    lengths = {name: len(values) for name, values in entities.items()}
    if len(set(lengths.values())) > 1:
        told = ", ".join(f"'{name}' has {length}" for name, length in lengths.items())
        raise MalformedRequestError(
            f"entity columns differ in length: {told}", hint="send one value an entity in every column"
        )
    return next(iter(lengths.values()), 0)


def _key_column(values: list[Any], no_times: list[str]) -> ResultColumn:
    return ResultColumn(values, ["NULL_VALUE" if value is None else "PRESENT" for value in values], no_times)


def _metadata(request: OnlineRequest, plan: ReadPlan, answered: Sequence[ServedView]) -> ResponseMetadata:
    names = [*(key.name for key in plan.join_keys), *plan.names]
    versions = types = None
    if request.include_feature_view_version_metadata:
        versions = [ViewVersion(view.name, view.version) for view in answered]
    if request.include_feature_types:
        types = [*(key.dtype for key in plan.join_keys), *plan.dtypes]
    return ResponseMetadata(names, versions, types)
