"""The registry's database: SQLite in a file, or PostgreSQL by its URL. Opened, migrated, and used in transactions."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event, inspect
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, NoSuchModuleError, SQLAlchemyError

from featurestore.errors import NoRegistryError, RegistryError

HEAD = "0002"
"""The newest migration, which this code is written for."""
_MIGRATIONS = Path(__file__).parent / "migrations"
_KNOWN = {None, "0001", HEAD}
# Any number, the same for all: who holds it may write.
_WRITERS_LOCK = 7_205_759_403
_CONNECT_S = 5


def registry_file(data_dir: Path) -> Path:
    """Where the registry of a data_dir lies that has no other place."""
    return data_dir / "registry" / "registry.db"


def copy_file(origin: Path, target: Path) -> None:
    """Copy a registry that is a file as it is at one moment, beside its writers. Raises RegistryError."""
    try:
        reading = sqlite3.connect(f"file:{origin}?mode=ro", uri=True, timeout=30)
        with closing(reading) as source, closing(sqlite3.connect(target)) as sink:
            source.backup(sink)
    except sqlite3.Error as error:
        raise RegistryError(
            f"registry {origin} can't be copied: {error}", hint="is there room, and is it whole?"
        ) from error


class Database:
    """Transactions on the registry's tables. Writers take turns; readers see one moment and wait for nobody."""

    def __init__(self, engine: Engine, place: str) -> None:
        self.place = place
        """Where it is, for messages: a path, or a URL without its password."""
        self._engine = engine
        self._writing = engine.execution_options(write=True)
        self._reading = engine
        if engine.dialect.name == "postgresql":
            # A writer reads after it has its turn, which is later than its first statement.
            self._writing = engine.execution_options(write=True, isolation_level="READ COMMITTED")
            self._reading = engine.execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)

    @classmethod
    def open(cls, place: Path | str, *, create: bool) -> Database:
        """Open the database at a path or URL ("postgresql://…").

        create: make its tables when there are none; else that raises RegistryError, as what can't be reached or read
        does. Tables of an older featurestore are brought up to date.
        """
        if isinstance(place, str) and "://" in place:
            database = _over_network(place)
        else:
            database = _in_file(Path(place), create=create)
        try:
            database._bring_up_to_date(create=create)
        except BaseException:
            database.close()
            raise
        return database

    def transaction(self, *, write: bool = False) -> Transaction:
        """A transaction, as a context manager that gives a connection. Failures raise RegistryError."""
        return Transaction(self._writing if write else self._reading, self.place)

    def close(self) -> None:
        """Release its connections."""
        self._engine.dispose()

    def _bring_up_to_date(self, *, create: bool) -> None:
        with self.transaction() as connection:
            found, empty = _version(connection)
        if found == HEAD:
            return
        if empty and not create:
            raise _no_registry(self.place)
        if found not in _KNOWN:
            raise RegistryError(
                f"registry {self.place} was written by a newer featurestore (its tables are of version {found}, "
                f"this one knows {HEAD})",
                hint="upgrade this installation",
            )
        # Slow to import, and rarely needed.
        from alembic import command
        from alembic.config import Config

        with self.transaction(write=True) as connection:
            config = Config()
            config.set_main_option("script_location", str(_MIGRATIONS))
            config.attributes["connection"] = connection
            command.upgrade(config, HEAD)


class Transaction:
    """One transaction; commits when its block ends, rolls back when that raises."""

    def __init__(self, engine: Engine, place: str) -> None:
        self._context = engine.begin()
        self._place = place

    def __enter__(self) -> Connection:
        try:
            return self._context.__enter__()
        except SQLAlchemyError as error:
            raise self._told(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._context.__exit__(kind, error, trace)
        except SQLAlchemyError as failure:
            raise self._told(failure) from failure
        if isinstance(error, SQLAlchemyError):
            raise self._told(error) from error

    def _told(self, error: SQLAlchemyError) -> RegistryError:
        cause = str(getattr(error, "orig", None) or error).strip()
        hint = "can its server be reached, and may this user read and write it?"
        if "://" not in self._place:
            hint = "is the file a registry, and can it be written?"
        return RegistryError(f"registry {self._place}: {cause}", hint=hint)


def _in_file(path: Path, *, create: bool) -> Database:
    # SQLite makes an empty file first, and fills it when the first transaction ends.
    if not path.exists() or (not create and not path.stat().st_size):
        if not create:
            raise _no_registry(str(path))
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RegistryError(f"registry {path} can't be made: {error.strerror}") from error
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})
    event.listen(engine, "connect", _begin_by_hand)
    event.listen(engine, "begin", _begin_in_file)
    return Database(engine, str(path))


def _over_network(text: str) -> Database:
    try:
        url = make_url(text)
        if url.drivername in ("postgresql", "postgres"):
            url = url.set(drivername="postgresql+psycopg")
        if url.drivername != "postgresql+psycopg":
            raise RegistryError(
                f"registry {url.render_as_string()}: no registry is kept in {url.drivername}",
                hint="registry.url is a postgresql:// URL; without one the registry is a file under the data_dir",
            )
        engine = create_engine(url, pool_pre_ping=True, pool_size=2, connect_args={"connect_timeout": _CONNECT_S})
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise RegistryError(
            "registry.url is no URL of a database", hint="write postgresql://user:password@host:5432/database"
        ) from error
    except ModuleNotFoundError as error:
        raise RegistryError(
            "a registry in PostgreSQL needs its driver, which is not installed",
            hint="pip install 'featurestore[postgres]'",
        ) from error
    event.listen(engine, "begin", _take_turn)
    return Database(engine, url.set(drivername="postgresql").render_as_string())


def _no_registry(place: str) -> NoRegistryError:
    return NoRegistryError(
        f"there is no registry at {place}", hint="apply definitions first: featurestore apply MODULE"
    )


def _version(connection: Connection) -> tuple[str | None, bool]:
    """The migration that the tables are at, None before any; and whether there are no tables of ours at all."""
    tables = inspect(connection)
    if tables.has_table("alembic_version"):
        return connection.exec_driver_sql("SELECT version_num FROM alembic_version").scalar(), False
    return None, not tables.has_table("definitions")


def _begin_by_hand(connection: Any, record: Any) -> None:
    # The driver would begin transactions by itself, and too late to serialise writers.
    connection.isolation_level = None


def _begin_in_file(connection: Connection) -> None:
    # A writer takes its turn before it reads; a reader neither waits for others nor needs a file it can write.
    write = connection.get_execution_options().get("write", False)
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")


def _take_turn(connection: Connection) -> None:
    if connection.get_execution_options().get("write", False):
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_WRITERS_LOCK})")
