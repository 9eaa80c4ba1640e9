"""One reader for each source's online store: opened when the store appears, anew when it is another one."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from pathlib import Path

from featurestore.errors import ServerUnavailableError, StoreError
from featurestore.online.reader import OnlineReader
from featurestore.online.source_store import read_store_info

RETIRED_S = 5.0
"""How long a replaced reader stays open for the reads that still use it."""


class SourceReaders:
    """Readers by source. `refresh` is called by one thread; `get` by any."""

    def __init__(self, data_dir: Path, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._data_dir = data_dir
        self._monotonic = monotonic
        self._readers: dict[str, OnlineReader] = {}
        self._retired: list[tuple[float, OnlineReader]] = []

    def get(self, source: str) -> OnlineReader:
        """The source's reader. Raises ServerUnavailableError while the source has no store."""
        reader = self._readers.get(source)
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
            if reader is not None and (info is None or info.incarnation != reader.incarnation):
                self._retire(source)
                reader = None
            if reader is None and info is not None:
                self._readers[source] = OnlineReader(self._data_dir, source)
        self._close_retired(self._monotonic() - RETIRED_S)

    def refresh(self) -> None:
        """Catch up with the workers. A store that can't be followed is dropped; `open` opens it anew."""
        for source, reader in list(self._readers.items()):
            try:
                reader.refresh()
            except (StoreError, OSError):
                self._retire(source)
                raise

    def close(self) -> None:
        """Close all readers."""
        for source in list(self._readers):
            self._retire(source)
        self._close_retired(float("inf"))

    def _retire(self, source: str) -> None:
        self._retired.append((self._monotonic(), self._readers.pop(source)))

    def _close_retired(self, before: float) -> None:
        for since, reader in self._retired:
            if since <= before:
                reader.close()
        self._retired = [(since, reader) for since, reader in self._retired if since > before]
