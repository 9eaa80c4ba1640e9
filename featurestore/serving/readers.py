"""One reader for each online store, of a source or a batch view: opened when it appears, anew when it is another."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from featurestore.compile.batch import BATCH_STORES
from featurestore.errors import ServerUnavailableError, StoreError
from featurestore.online.batch_reader import BatchReader
from featurestore.online.layout import is_batch_store
from featurestore.online.reader import OnlineReader, ViewRead
from featurestore.online.source_store import read_store_info

RETIRED_S = 5.0
"""How long a replaced reader stays open for the reads that still use it."""


class ViewReader(Protocol):
    """What reads the views of one store; a view is compiled, of the store's kind."""

    incarnation: str

    def refresh(self) -> None:
        """Catch up with who writes."""

    def latest_us(self, view: Any) -> int:
        """Just after the newest event or row of the view; NO_TIME before any."""

    def read(self, view: Any, keys: Sequence[str | None], features: Sequence[str], as_of_us: int) -> ViewRead:
        """Values of features for encoded keys as of an instant."""

    def close(self) -> None:
        """Close the store."""


class SourceReaders:
    """Readers by store. `refresh` is called by one thread; `get` by any."""

    def __init__(self, data_dir: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._data_dir = data_dir
        self._monotonic = monotonic
        self._readers: dict[str, ViewReader] = {}
        self._lost: set[str] = set()
        self._retired: list[tuple[float, ViewReader]] = []

    def get(self, source: str) -> ViewReader:
        """The source's reader. Raises ServerUnavailableError while the source has no store."""
        reader = self._readers.get(source)
        if reader is None and is_batch_store(source):
            view = source.removeprefix(BATCH_STORES)
            raise ServerUnavailableError(
                f"batch view '{view}' has no online store yet", hint=f"featurestore materialize {view}"
            )
        if reader is None:
            raise ServerUnavailableError(
                f"source '{source}' has no online store yet", hint="start a worker: featurestore run MODULE"
            )
        return reader

    def missing(self, sources: Iterable[str]) -> list[str]:
        """Those of `sources` whose store is not open."""
        return [source for source in sources if source not in self._readers]

    def open(self, sources: Iterable[str]) -> None:
        """Open stores that appeared, drop those that are gone. Raises StoreError for a damaged one."""
        wanted = set(sources)
        for source in wanted | self._readers.keys():
            info = read_store_info(self._data_dir, source) if source in wanted else None
            reader = self._readers.get(source)
            if info is None:
                self._replace(source, None)
            elif reader is None or info.incarnation != reader.incarnation or source in self._lost:
                self._replace(source, self._make(source))
        self._close_retired(self._monotonic() - RETIRED_S)

    def refresh(self) -> None:
        """Catch up with the workers.

        Raises StoreError for stores that can't be followed; they still answer what was seen, until `open`
        opens them anew.
        """
        problems: list[StoreError] = []
        for source, reader in list(self._readers.items()):
            try:
                reader.refresh()
            except (StoreError, OSError) as error:
                self._lost.add(source)
                problems.append(error if isinstance(error, StoreError) else StoreError(f"source '{source}': {error}"))
        if problems:
            raise problems[0]

    def close(self) -> None:
        """Close all readers."""
        for source in list(self._readers):
            self._replace(source, None)
        self._close_retired(float("inf"))

    def _make(self, source: str) -> ViewReader:
        return (BatchReader if is_batch_store(source) else OnlineReader)(self._data_dir, source)

    def _replace(self, source: str, reader: ViewReader | None) -> None:
        old = self._readers.get(source)
        if reader is None:
            self._readers.pop(source, None)
        else:
            self._readers[source] = reader
        self._lost.discard(source)
        if old is not None:
            self._retired.append((self._monotonic(), old))

    def _close_retired(self, before: float) -> None:
        for since, reader in self._retired:
            if since <= before:
                reader.close()
        self._retired = [(since, reader) for since, reader in self._retired if since > before]
