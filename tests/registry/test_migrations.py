"""The registry's tables: made by migrations, brought up to date, refused when they are of a newer featurestore."""

from __future__ import annotations

import hashlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

import featurestore.registry
from featurestore.errors import RegistryError
from featurestore.registry import Registry
from featurestore.registry.database import HEAD, Database
from featurestore.registry.tables import METADATA
from tests.postgres import PostgresServer
from tests.registry.support import CARD, SOURCE, apply, resolved, view

OF_BEFORE = """
CREATE TABLE definitions (
    id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT, kind VARCHAR(16) NOT NULL, name VARCHAR(255) NOT NULL,
    version INTEGER NOT NULL, spec TEXT NOT NULL, applied_at DATETIME NOT NULL, applied_by VARCHAR(255) NOT NULL
);
CREATE TABLE version_starts (
    view_id INTEGER NOT NULL, version INTEGER NOT NULL, start VARCHAR(16) NOT NULL, PRIMARY KEY (view_id, version)
);
"""


@pytest.fixture
def server() -> Iterator[PostgresServer]:
    running = PostgresServer()
    yield running
    running.close()


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A registry as it was before migrations: a view in its third version, which was reset to the topic's end."""
    path = tmp_path / "registry.db"
    rows = [("entity", "card", 1, CARD), ("source", "payments", 1, SOURCE), ("view", "activity", 3, view())]
    with sqlite3.connect(path) as database:
        database.executescript(OF_BEFORE)
        for kind, name, version, spec in rows:
            text = msgspec.json.encode(spec, order="sorted").decode()
            values = (kind, name, version, text, "2026-05-01 10:00:00.000000", "ann")
            database.execute(
                "INSERT INTO definitions (kind, name, version, spec, applied_at, applied_by) VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )
        database.execute("INSERT INTO version_starts VALUES (3, 3, 'latest')")
    database.close()
    return path


def test_the_newest_migration_is_the_one_that_the_code_is_written_for() -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(featurestore.registry.__file__).parent / "migrations"))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def differences(database: Database) -> list[object]:
    with database.transaction(write=True) as connection:
        return list(compare_metadata(MigrationContext.configure(connection), METADATA))


def test_migrations_make_the_tables_that_the_code_knows(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "registry.db", create=True)
    assert differences(database) == []
    database.close()


def test_so_they_do_in_postgresql(server: PostgresServer) -> None:
    database = Database.open(server.url, create=True)
    assert differences(database) == []
    database.close()


@pytest.mark.parametrize("create", [True, False])
def test_a_registry_of_before_migrations_is_read_and_written(old: Path, create: bool) -> None:
    registry = Registry.open(old, create=create)
    (found,) = registry.views()
    assert (found.view_id, found.version, found.spec, found.start, found.applied_by) == (3, 3, view(), "latest", "ann")
    assert found.applied_at.isoformat() == "2026-05-01T10:00:00+00:00"
    assert registry.paused() == {}
    (version,) = registry.versions.of("activity")
    text = msgspec.json.encode(view(), order="sorted")
    assert (version.role, version.content_hash) == ("served", hashlib.sha256(text).hexdigest())
    assert not registry.plan(resolved(view())).has_changes
    apply(registry, view(hours=2), view("next"))
    assert [one.reference for one in registry.live_views()] == ["activity@3", "activity@4", "next@1"]
    assert differences(registry.database) == []
    registry.close()


def test_ids_are_not_used_twice_after_the_migration(old: Path) -> None:
    with sqlite3.connect(old) as database:
        database.execute("INSERT INTO definitions VALUES (9, 'view', 'gone', 1, '{}', '2026-05-01', 'ann')")
        database.execute("DELETE FROM definitions WHERE id = 9")
    database.close()
    registry = Registry.open(old)
    apply(registry, view(), view("next"))
    assert registry.view("next").view_id == 10
    registry.close()


def test_a_registry_of_a_newer_featurestore_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    Registry.open(path).close()
    with sqlite3.connect(path) as database:
        database.execute("UPDATE alembic_version SET version_num = '0999'")
    database.close()
    before = path.read_bytes()
    with pytest.raises(RegistryError, match=r"written by a newer featurestore .*0999") as caught:
        Registry.open(path)
    assert caught.value.hint == "upgrade this installation"
    assert path.read_bytes() == before


def test_a_file_that_may_not_be_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "registry.db"
    registry = Registry.open(path)
    apply(registry, view())
    registry.close()
    path.chmod(0o444)
    reader = Registry.open(f"{path}", create=False)
    assert [found.name for found in reader.views()] == ["activity"]
    reader.close()
