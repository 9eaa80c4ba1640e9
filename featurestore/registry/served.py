"""What a server needs of the registry, read at one moment; and following it while it changes or is away."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec
import structlog
from sqlalchemy import Connection, func, select

from featurestore.definitions.specs import BatchViewSpec, FeatureServiceSpec, SourceSpec, ViewSpec
from featurestore.errors import NoRegistryError, RegistryError
from featurestore.registry.database import Database
from featurestore.registry.records import decoded
from featurestore.registry.tables import CHANGES, DEFINITIONS, ROUTES
from featurestore.registry.version_rows import live_rows
from featurestore.registry.views import Route

log = structlog.get_logger()

FORMAT_VERSION = 1


class ServedView(msgspec.Struct, frozen=True):
    """A version of a stream view that is computed."""

    view_id: int
    version: int
    spec: ViewSpec


class ServedBatchView(msgspec.Struct, frozen=True):
    """As ServedView."""

    view_id: int
    version: int
    spec: BatchViewSpec


class ServedDefinitions(msgspec.Struct, frozen=True):
    """What can be read: versions that are computed, their routes by view, feature services.

    change_number: of the registry at that moment; grows with every change.
    """

    format_version: int
    change_number: int
    sources: dict[str, SourceSpec]
    views: tuple[ServedView, ...]
    batch_views: tuple[ServedBatchView, ...]
    routes: dict[str, Route]
    services: dict[str, FeatureServiceSpec]


def read_served(database: Database) -> ServedDefinitions:
    """All of it in one transaction: no promotion is seen by half."""
    place = database.place
    with database.transaction() as connection:
        routes = select(DEFINITIONS.c.name, ROUTES).join_from(ROUTES, DEFINITIONS, ROUTES.c.view_id == DEFINITIONS.c.id)
        return ServedDefinitions(
            FORMAT_VERSION,
            _change_number(connection),
            {name: decoded(text, SourceSpec, place) for name, text in _texts(connection, "source")},
            tuple(
                ServedView(row.id, row.version, decoded(row.spec, ViewSpec, place))
                for row in live_rows(connection, "view")
            ),
            tuple(
                ServedBatchView(row.id, row.version, decoded(row.spec, BatchViewSpec, place))
                for row in live_rows(connection, "batch_view")
            ),
            {
                row.name: Route(row.served, row.changed_at, row.changed_by, row.previous, row.canary, row.canary_share)
                for row in connection.execute(routes)
            },
            {name: decoded(text, FeatureServiceSpec, place) for name, text in _texts(connection, "feature_service")},
        )


class DefinitionsFollower:
    """Looks at the registry again and again. place: its path or URL.

    cache: a file for what was read last, so that a server starts although a registry over the network is down.
    """

    def __init__(self, place: Path | str, cache: Path | None = None) -> None:
        self._place = place
        self._path = None if isinstance(place, str) and "://" in place else Path(place)
        self._cache = None if self._path is not None else cache
        self._database: Database | None = None
        self._seen: object = None
        self._last_change: object = None

    def poll(self) -> ServedDefinitions | None:
        """What there is now, None when nothing changed since the last call.

        Raises RegistryError while it can't be reached or read (NoRegistryError: there is none); at the first call only
        when there is no cache either.
        """
        try:
            return self._look()
        except NoRegistryError:
            self._seen = None
            raise
        except RegistryError as error:
            found = self._cached() if self._seen is None else None
            if found is None:
                raise
            log.warning("registry_from_cache", error=error.message, cache=str(self._cache))
            self._seen = found.change_number
            return found

    def close(self) -> None:
        """Release the database."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _look(self) -> ServedDefinitions | None:
        if self._path is not None:
            # A file may be replaced by another one: it is opened anew for each look, and only when it changed.
            state = _file_state(self._path)
            if state is not None and state == self._seen:
                return None
            self.close()
        if self._database is None:
            self._database = Database.open(self._place, create=False)
        with self._database.transaction() as connection:
            last_change = _last_change(connection)
        if self._seen is not None and last_change is not None and last_change == self._last_change:
            # Something was written that nobody here reads: a job, how often features are read.
            if self._path is not None:
                self._seen = state
                self.close()
            return None
        found = read_served(self._database)
        self._last_change = last_change
        if self._path is not None:
            self.close()
        elif self._seen != found.change_number:
            self._keep(found)
        self._seen = found.change_number if self._path is None else state
        return found

    def _cached(self) -> ServedDefinitions | None:
        if self._cache is None:
            return None
        try:
            found = msgspec.json.decode(self._cache.read_bytes(), type=ServedDefinitions)
        except (OSError, msgspec.MsgspecError):
            return None
        return found if found.format_version == FORMAT_VERSION else None

    def _keep(self, found: ServedDefinitions) -> None:
        if self._cache is None:
            return
        temporary = self._cache.with_name(f".{self._cache.name}.{os.getpid()}")
        try:
            self._cache.parent.mkdir(parents=True, exist_ok=True)
            temporary.write_bytes(msgspec.json.encode(found))
            temporary.replace(self._cache)
        except OSError as error:
            log.warning("registry_cache_not_written", cache=str(self._cache), error=error.strerror)


def _change_number(connection: Connection) -> int:
    return connection.execute(select(func.max(CHANGES.c.id))).scalar() or 0


def _last_change(connection: Connection) -> object:
    """Number and instant of the newest change, None before any; no other registry has had the same."""
    row = connection.execute(select(CHANGES.c.id, CHANGES.c.at).order_by(CHANGES.c.id.desc()).limit(1)).first()
    return None if row is None else tuple(row)


def _texts(connection: Connection, kind: str) -> list[tuple[str, str]]:
    query = select(DEFINITIONS.c.name, DEFINITIONS.c.spec).where(DEFINITIONS.c.kind == kind)
    return [(row.name, row.spec) for row in connection.execute(query)]


def _file_state(path: Path) -> object:
    """Changes whenever the database does; None when it isn't there."""
    state = []
    for name in (path, path.with_name(path.name + "-wal")):
        try:
            stat = os.stat(name)
        except FileNotFoundError:
            if name == path:
                return None
            continue
        state.append((stat.st_ino, stat.st_size, stat.st_mtime_ns))
    return state
