"""A batch view over a real PostgreSQL: its types, its time zones, a large result in batches, and its errors."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl
import psycopg
import pytest

from featurestore.compile.batch import CompiledBatchView
from featurestore.definitions.batch import SQLSource
from featurestore.errors import SourceError, SourceUnavailableError
from tests.batch.support import Project, compiled
from tests.postgres import PostgresServer


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """A server of its own with an empty database; gives its URL."""
    running = PostgresServer()
    yield running.url
    running.close()


@pytest.fixture
def url(server: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The server's URL, in the environment as the views expect it, and a fresh table."""
    monkeypatch.setenv("LIMITS_URL", server)
    execute(
        server,
        "DROP TABLE IF EXISTS limits",
        "CREATE TABLE limits (card_id text, credit numeric(18, 0), rate real, blocked boolean, "
        "at timestamptz, loaded timestamp)",
    )
    return server


def execute(url: str, *statements: str) -> None:
    """Run statements and commit."""
    with psycopg.connect(url) as connection:
        for statement in statements:
            connection.execute(statement)


def view(query: str = "SELECT * FROM limits") -> CompiledBatchView:
    """The view of a query; its URL is in the environment."""
    source = SQLSource("env:LIMITS_URL", query, event_time="at", created_time="loaded")
    return compiled(source, rate=pl.Float64, blocked=pl.Boolean)


def test_types_and_time_zones(tmp_path: Path, url: str):
    execute(
        url,
        "SET timezone = 'Asia/Kolkata'",
        "INSERT INTO limits VALUES ('a', 12, 0.5, true, '2026-11-23 06:30:00+05:30', '2026-11-23 01:00:00'), "
        "('b', null, 'NaN', null, '2026-11-23 02:00:00Z', null)",
    )
    project = Project(tmp_path)
    project.materialize(view(), 5)
    rows = project.rows(view())
    assert rows.select("card_id", "credit", "blocked").rows() == [("a", 12, True), ("b", None, None)]
    assert [str(time) for time in rows["event_timestamp"]] == ["2026-11-23 01:00:00+00:00", "2026-11-23 02:00:00+00:00"]
    assert str(rows["created_timestamp"][0]) == "2026-11-23 01:00:00+00:00"
    assert project.read(view(), ["a"], 6).columns["rate"].values == [0.5]


def test_a_large_result_comes_in_batches_and_an_interval_in_full(tmp_path: Path, url: str):
    execute(
        url,
        "INSERT INTO limits SELECT 'c' || n % 1000, n, n, n % 2 = 0, "
        "timestamptz '2026-11-23 00:00:00Z' + n * interval '1 ms', null FROM generate_series(1, 100000) AS n",
    )
    by_time = view(
        "SELECT * FROM limits WHERE at >= :from_time AND at < :to_time AND at::date > '2026-01-01' ORDER BY at"
    )
    project = Project(tmp_path)
    first = project.materialize(by_time, 1, end=50 / 3600)[0]
    assert (first.read, first.rows) == (49_999, 49_999)
    second = project.materialize(by_time, 1)[0]
    assert (second.read, second.rows, second.entities) == (50_001, 50_001, 1_000)
    assert project.read(by_time, ["c0", "c1"], 2).columns["credit"].values == [100_000, 99_001]


def test_a_fraction_is_no_whole_number(tmp_path: Path, url: str):
    execute(url, "INSERT INTO limits VALUES ('a', 1, 1, true, '2026-11-23 01:00:00Z', null)")
    with pytest.raises(SourceError, match=r"column 'credit' holds Decimal\('1\.5'\), which is no Int64"):
        Project(tmp_path).materialize(
            view("SELECT card_id, credit + 0.5 AS credit, rate, blocked, at, loaded FROM limits"), 5
        )


def test_errors_tell_the_database_and_no_password(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(SourceError, match='relation "nope" does not exist') as refused:
        Project(tmp_path).materialize(view("SELECT * FROM nope"), 5)
    assert not refused.value.retryable
    monkeypatch.setenv("LIMITS_URL", "postgresql://reader:word@127.0.0.1:1/postgres")
    with pytest.raises(
        SourceUnavailableError, match=r"postgresql\+psycopg://reader:\*\*\*@127\.0\.0\.1:1/postgres"
    ) as away:
        Project(tmp_path).materialize(view(), 5)
    assert "word" not in str(away.value)
