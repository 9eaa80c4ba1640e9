"""The registry's database, by SQLAlchemy: SQLite under the data_dir.

Every definition is stored as its spec's canonical JSON. A view keeps its id for good; each change of what it computes
makes a new version, with online rows and Parquet paths of its own.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    delete,
    event,
    inspect,
    select,
    update,
)
from sqlalchemy import insert as insert_into
from sqlalchemy.exc import SQLAlchemyError

from featurestore.definitions.resolve import ResolvedDefinitions, fingerprint
from featurestore.definitions.specs import BatchViewSpec, EntitySpec, FeatureServiceSpec, SourceSpec, ViewSpec
from featurestore.errors import RegistryError, UnknownViewError
from featurestore.registry.plan import Plan, Stored, make_plan, still_fits
from featurestore.registry.services import RegisteredFeatureService

_TABLES = MetaData()
_DEFINITIONS = Table(
    "definitions",
    _TABLES,
    # SQLite reuses the id of a deleted last row unless told not to; ids are part of store keys.
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("name", String(255), nullable=False),
    Column("version", Integer, nullable=False),
    Column("spec", Text, nullable=False),
    Column("applied_at", DateTime(timezone=True), nullable=False),
    Column("applied_by", String(255), nullable=False),
    sqlite_autoincrement=True,
)
# Views that runs leave out for now; a decision of an operator, no part of a definition.
_PAUSED = Table(
    "paused_views",
    _TABLES,
    Column("name", String(255), primary_key=True),
    Column("since", DateTime(timezone=True), nullable=False),
    Column("paused_by", String(255), nullable=False),
)
# Where a version begins that was made by an operator, against what its definition says.
_STARTS = Table(
    "version_starts",
    _TABLES,
    Column("view_id", Integer, primary_key=True),
    Column("version", Integer, primary_key=True),
    Column("start", String(16), nullable=False),
)
# What operators did to watermarks, for good; see `WatermarkReset`.
_RESETS = Table(
    "watermark_resets",
    _TABLES,
    Column("id", Integer, primary_key=True),
    Column("view", String(255), nullable=False),
    Column("version", Integer, nullable=False),
    Column("at", DateTime(timezone=True), nullable=False),
    Column("by", String(255), nullable=False),
    Column("from_us", BigInteger, nullable=False),
    Column("to_us", BigInteger, nullable=False),
    Column("reason", Text, nullable=False),
)
_TYPES: Mapping[str, type[Any]] = {
    "entity": EntitySpec,
    "source": SourceSpec,
    "view": ViewSpec,
    "batch_view": BatchViewSpec,
    "feature_service": FeatureServiceSpec,
}
Decoded = TypeVar("Decoded")
Start = Literal["earliest", "latest"]


@dataclass(frozen=True)
class RegisteredView:
    """A deployed view. view_id: stable and never reused. applied_at: UTC.

    start: where this version begins in the topic, as the definition says or as it was reset.
    """

    view_id: int
    version: int
    spec: ViewSpec
    applied_at: datetime
    applied_by: str
    start: Start

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the view computes, hexadecimal; the same within a version."""
        return fingerprint(self.spec)


@dataclass(frozen=True)
class WatermarkReset:
    """An operator took a view's watermark back: when (UTC), who, from and to which instant (µs), and why."""

    version: int
    at: datetime
    by: str
    from_us: int
    to_us: int
    reason: str


@dataclass(frozen=True)
class RegisteredBatchView:
    """A deployed batch view; as RegisteredView."""

    view_id: int
    version: int
    spec: BatchViewSpec
    applied_at: datetime
    applied_by: str

    @property
    def fingerprint(self) -> str:
        """As of a RegisteredView."""
        return fingerprint(self.spec)


class Registry:
    """What is deployed. Safe for several processes: writers are serialised by the database."""

    def __init__(self, engine: Engine, place: str) -> None:
        self._engine = engine
        self._place = place

    @classmethod
    def open(cls, path: Path | str, *, create: bool = True) -> Registry:
        """Open the registry database at `path`.

        create: make it when it is missing; else a missing one raises RegistryError. Reading needs no right to write.
        """
        path = Path(path)
        # SQLite makes an empty file first, and fills it when the first transaction ends.
        if not path.exists() or (not create and not path.stat().st_size):
            if not create:
                raise RegistryError(
                    f"there is no registry at {path}", hint="apply definitions first: featurestore apply MODULE"
                )
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise RegistryError(f"registry {path} can't be made: {error.strerror}") from error
        engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
        event.listen(engine, "connect", _begin_by_hand)
        event.listen(engine, "begin", _begin)
        registry = cls(engine, str(path))
        if create:
            with registry._transaction(write=True) as connection:
                _TABLES.create_all(connection)
        return registry

    def plan(self, resolved: ResolvedDefinitions) -> Plan:
        """What applying these definitions would change. Nothing is written."""
        with self._transaction() as connection:
            return make_plan(self._read(connection), resolved)

    def apply(self, plan: Plan) -> None:
        """Write a plan, all or nothing.

        Raises RegistryError when the registry changed since the plan was made, unless to what the plan wants: the
        same definitions may be applied from two places at once.
        """
        with self._transaction(write=True) as connection:
            stored = self._read(connection)
            for key in plan.unchanged:
                still_fits(key, plan, stored)
            for change in (*plan.added, *plan.changed):
                key = (change.kind, change.name)
                spec, row = plan.specs[key], stored.get(key)
                if not still_fits(key, plan, stored):
                    continue
                values = {
                    "spec": msgspec.json.encode(spec, order="sorted").decode(),
                    "version": change.new_version or (row[1] if row else 1),
                    "applied_at": datetime.now(timezone.utc),
                    "applied_by": _user(),
                }
                if row is None:
                    connection.execute(insert_into(_DEFINITIONS).values(kind=change.kind, name=change.name, **values))
                else:
                    connection.execute(update(_DEFINITIONS).where(_DEFINITIONS.c.id == row[0]).values(**values))

    def views(self) -> list[RegisteredView]:
        """All deployed views, by name."""
        with self._transaction() as connection:
            rows = _rows_of(connection, "view")
            starts = {(row.view_id, row.version): row.start for row in _if_there(connection, _STARTS)}
        views = []
        for row in rows:
            spec = self._decoded(row.spec, ViewSpec)
            start = starts.get((row.id, row.version), spec.start)
            applied_at = row.applied_at.replace(tzinfo=timezone.utc)
            views.append(RegisteredView(row.id, row.version, spec, applied_at, row.applied_by, start))
        return views

    def batch_views(self) -> list[RegisteredBatchView]:
        """All deployed batch views, by name."""
        with self._transaction() as connection:
            rows = _rows_of(connection, "batch_view")
        specs = [self._decoded(row.spec, BatchViewSpec) for row in rows]
        times = [row.applied_at.replace(tzinfo=timezone.utc) for row in rows]
        return [
            RegisteredBatchView(row.id, row.version, spec, at, row.applied_by)
            for row, spec, at in zip(rows, specs, times, strict=True)
        ]

    def feature_services(self) -> dict[str, RegisteredFeatureService]:
        """All deployed feature services, by name."""
        with self._transaction() as connection:
            rows = _rows_of(connection, "feature_service")
        return {row.name: RegisteredFeatureService.of(row, self._decoded(row.spec, FeatureServiceSpec)) for row in rows}

    def view(self, name: str) -> RegisteredView:
        """One deployed stream view. Raises UnknownViewError, naming the nearest."""
        views = {view.spec.name: view for view in self.views()}
        if name not in views:
            if any(name == other.spec.name for other in self.batch_views()):
                raise UnknownViewError(
                    f"'{name}' is a batch view, no stream view", hint=f"it is kept by featurestore materialize {name}"
                )
            near = get_close_matches(name, views, n=3)
            raise UnknownViewError(
                f"there is no view '{name}'",
                hint=f"did you mean {', '.join(near)}?" if near else "see featurestore status",
            )
        return views[name]

    def paused(self) -> dict[str, datetime]:
        """Paused views and since when, UTC."""
        with self._transaction() as connection:
            rows = _if_there(connection, _PAUSED)
        return {row.name: row.since.replace(tzinfo=timezone.utc) for row in rows}

    def pause(self, name: str) -> bool:
        """Leave a view out of runs that start from now on; False when it is paused already. Raises UnknownViewError."""
        self.view(name)
        if name in self.paused():
            return False
        with self._transaction(write=True) as connection:
            _TABLES.create_all(connection)
            row = {"name": name, "since": datetime.now(timezone.utc), "paused_by": _user()}
            connection.execute(insert_into(_PAUSED).values(**row))
        return True

    def resume(self, name: str) -> bool:
        """Take a view into runs again; False when it is not paused. Raises UnknownViewError."""
        self.view(name)
        if name not in self.paused():
            return False
        with self._transaction(write=True) as connection:
            connection.execute(delete(_PAUSED).where(_PAUSED.c.name == name))
        return True

    def begin_anew(self, name: str, start: Start | None = None) -> RegisteredView:
        """Give a view a new version with the same definition: it is computed again, beside what it was.

        start: where this version begins in the topic, None as the definition says; a later version does as it says.
        Version and id are part of all keys and paths, so nothing of the old version is touched. The caller holds the
        lock of the view's source. Raises UnknownViewError.
        """
        view = self.view(name)
        with self._transaction(write=True) as connection:
            values = {"version": view.version + 1, "applied_at": datetime.now(timezone.utc), "applied_by": _user()}
            connection.execute(update(_DEFINITIONS).where(_DEFINITIONS.c.id == view.view_id).values(**values))
            if start is not None and start != view.spec.start:
                _TABLES.create_all(connection)
                row = {"view_id": view.view_id, "version": view.version + 1, "start": start}
                connection.execute(insert_into(_STARTS).values(**row))
        return self.view(name)

    def record_watermark_reset(self, view: RegisteredView, from_us: int, to_us: int, reason: str) -> None:
        """Write down, for good, that the caller is about to take a view's watermark back."""
        with self._transaction(write=True) as connection:
            _TABLES.create_all(connection)
            row = {"view": view.spec.name, "version": view.version, "from_us": from_us, "to_us": to_us}
            row |= {"reason": reason, "at": datetime.now(timezone.utc), "by": _user()}
            connection.execute(insert_into(_RESETS).values(**row))

    def watermark_resets(self, view: str) -> list[WatermarkReset]:
        """All resets of a view's watermark, of all its versions, the oldest first."""
        with self._transaction() as connection:
            rows = sorted(_if_there(connection, _RESETS), key=lambda row: row.id)
        return [
            WatermarkReset(row.version, row.at.replace(tzinfo=timezone.utc), row.by, row.from_us, row.to_us, row.reason)
            for row in rows
            if row.view == view
        ]

    def source(self, name: str) -> SourceSpec:
        """One deployed source. Raises RegistryError when there is none of that name."""
        query = select(_DEFINITIONS.c.spec).where(_DEFINITIONS.c.kind == "source", _DEFINITIONS.c.name == name)
        with self._transaction() as connection:
            row = connection.execute(query).first()
        if row is None:
            raise RegistryError(f"there is no source '{name}' in {self._place}", hint="apply its module")
        return self._decoded(row.spec, SourceSpec)

    def close(self) -> None:
        """Release the database."""
        self._engine.dispose()

    def _transaction(self, *, write: bool = False) -> _Transaction:
        return _Transaction(self._engine.execution_options(write=write), self._place)

    def _read(self, connection: Connection) -> Stored:
        return {
            (row.kind, row.name): (row.id, row.version, self._decoded(row.spec, _TYPES[row.kind]))
            for row in connection.execute(select(_DEFINITIONS))
        }

    def _decoded(self, text: str, kind: type[Decoded]) -> Decoded:
        try:
            return msgspec.json.decode(text, type=kind)
        except msgspec.MsgspecError as error:
            raise RegistryError(
                f"registry {self._place} holds a definition that can't be read: {error}",
                hint="was it written by another version of featurestore?",
            ) from error


class _Transaction:
    def __init__(self, engine: Engine, place: str) -> None:
        self._context = engine.begin()
        self._place = place

    def __enter__(self) -> Connection:
        try:
            return self._context.__enter__()
        except SQLAlchemyError as error:
            raise self._told(error) from error

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        try:
            self._context.__exit__(kind, error, trace)
        except SQLAlchemyError as failure:
            raise self._told(failure) from failure
        if isinstance(error, SQLAlchemyError):
            raise self._told(error) from error

    def _told(self, error: SQLAlchemyError) -> RegistryError:
        cause = getattr(error, "orig", None) or error
        return RegistryError(f"registry {self._place}: {cause}", hint="is the file a registry, and can it be written?")


def _begin_by_hand(connection: Any, record: Any) -> None:
    # The driver would begin transactions by itself, and too late to serialise writers.
    connection.isolation_level = None


def _begin(connection: Connection) -> None:
    # A writer takes its turn before it reads; a reader neither waits for others nor needs a file it can write.
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _rows_of(connection: Connection, kind: str) -> Sequence[Any]:
    """The definitions of a kind, by name."""
    query = select(_DEFINITIONS).where(_DEFINITIONS.c.kind == kind).order_by(_DEFINITIONS.c.name)
    return connection.execute(query).all()


def _if_there(connection: Connection, table: Table) -> Sequence[Any]:
    """All rows of a table that a registry of before has not until something is written."""
    return connection.execute(select(table)).all() if inspect(connection).has_table(table.name) else []


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        return f"uid {os.getuid()}"
