"""Files and queries become typed rows; what does not fit is named."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

import polars as pl
import pytest

from featurestore.batch.rows import check_source
from featurestore.compile.batch import CompiledBatchView
from featurestore.definitions.batch import FileSource, SQLSource
from featurestore.errors import ConfigError, FeatureStoreError, SchemaError, SourceError, SourceUnavailableError
from tests.batch.support import Project, compiled

HEAD = "card_id,credit,at,loaded\n"


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def csv(project: Project, text: str, name: str = "rows/1.csv") -> CompiledBatchView:
    """A CSV file and a view of all CSV files under rows."""
    path = project.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return compiled(FileSource("rows/**/*.csv", event_time="at", created_time="loaded"))


def refused(project: Project, view: CompiledBatchView) -> FeatureStoreError:
    """What a materialization raises."""
    with pytest.raises(FeatureStoreError) as caught:
        project.materialize(view, 1000)
    return caught.value


@pytest.mark.parametrize(
    "written",
    [
        "2026-11-23T01:00:00Z",
        "2026-11-23T01:00:00",
        "2026-11-23 01:00:00",
        "2026-11-23 02:00:00.000+01:00",
        "2026-11-23T01:00Z",
        "1795395600000",
    ],
)
def test_instants_of_csv(project: Project, written: str):
    project.materialize(csv(project, f"{HEAD}a,1,{written},2026-11-23\n"), 5)
    assert [str(t) for t in project.rows(compiled())["event_timestamp"]] == ["2026-11-23 01:00:00+00:00"]


def test_csv_tells_an_empty_field_from_a_quoted_empty_text(project: Project):
    path = project.folder / "1.csv"
    path.write_text(
        'card_id,credit,tier,blocked,at,loaded\na,1,"",true,2026-11-23,2026-11-23\n,2,x,,2026-11-23,\n"b\nb",,,FALSE,2026-11-23,\n'
    )
    view = compiled(FileSource("1.csv", event_time="at", created_time="loaded"), tier=pl.String, blocked=pl.Boolean)
    done = project.materialize(view, 5)[0]
    assert done.null_keys == 1
    assert project.rows(view).select("card_id", "credit", "tier", "blocked").rows() == [
        ("a", 1, "", True),
        ("b\nb", None, None, False),
    ]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ("a,1.5,2026-11-23,", "column 'credit' holds '1.5', which is no Int64"),
        ("a,1,yesterday,", "column 'at' holds 'yesterday', which is no ISO 8601 instant"),
        ("a,99999999999999999999,2026-11-23,", "which is no Int64"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_file(project: Project, row: str, says: str):
    error = refused(project, csv(project, f"{HEAD}a,1,2026-11-23,\n{row}\n"))
    assert isinstance(error, SourceError)
    assert says in str(error)
    assert "1.csv" in str(error)
    assert not error.retryable


def test_a_file_that_is_damaged_is_named(project: Project):
    assert "expected 4 columns" in str(refused(project, csv(project, f"{HEAD}a,1\n")).message).lower()
    (project.folder / "x.parquet").write_bytes(b"PAR1 no")
    error = refused(project, compiled(FileSource("x.parquet", event_time="at")))
    assert "x.parquet can't be read as parquet" in str(error)
    assert not error.retryable


@pytest.mark.parametrize(
    ("frame", "says"),
    [
        ({"card": ["a"], "credit": [1], "at": [0]}, "join key 'card_id' is not in file 1.parquet"),
        (
            {"card_id": ["a"], "credits": [1], "at": [0]},
            "field 'credit' is not in file 1.parquet\nHint: did you mean 'credits'",
        ),
        ({"card_id": ["a"], "credit": [1]}, "event_time column 'at' is not in"),
        ({"card_id": [1], "credit": [1], "at": [0]}, "join key 'card_id' is String, but Int64"),
        (
            {"card_id": ["a"], "credit": [1.5], "at": [0]},
            "field 'credit' is Int64, but Float64 in file 1.parquet\nHint: declare it as pl.Float64",
        ),
        ({"card_id": ["a"], "credit": [1], "at": [0.5]}, "event_time column 'at' is Float64"),
    ],
)
def test_files_that_do_not_fit_are_refused_before_a_row_is_read(
    project: Project, frame: dict[str, list[object]], says: str
):
    pl.DataFrame(frame).write_parquet(project.folder / "1.parquet")
    view = compiled(FileSource("1.parquet", event_time="at"))
    with pytest.raises(SchemaError) as caught:
        check_source(view, project.folder)
    assert says in str(caught.value)
    assert isinstance(refused(project, view), SchemaError)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("rows/*.csv", [1]),
        ("rows/**/*.csv", [1, 2, 3]),
        ("rows/d?y/*.csv", [2]),
        ("rows/[cd]*/*.csv", [2]),
        ("rows/[!d]*/**/*.csv", [3]),
        ("rows/1.csv", [1]),
        ("{folder}/rows/*.csv", [1]),
        ("file://{folder}/rows/**/*.csv", [1, 2, 3]),
    ],
)
def test_which_files_a_path_means(project: Project, pattern: str, found: list[int]):
    for number, name in enumerate(("1.csv", "day/2.csv", "night/x/3.csv", "_tmp/4.csv", "day/.5.csv", "6.txt"), 1):
        csv(project, f"{HEAD}a,{number},2026-11-23,2026-11-23\n", f"rows/{name}")
    path = pattern.replace("{folder}", str(project.folder))
    view = compiled(FileSource(path, event_time="at", created_time="loaded"))
    project.materialize(view, 5)
    assert sorted(project.rows(view)["credit"].to_list()) == found


def test_a_folder_means_all_files_of_the_format_in_it(project: Project):
    for name in ("1.csv", "day/2.csv"):
        csv(project, f"{HEAD}a,1,2026-11-23,\n", f"rows/{name}")
    view = compiled(FileSource("rows", event_time="at", format="csv"))
    assert project.materialize(view, 5)[0].read == 2


def test_no_file_is_an_error_that_trying_again_mends(project: Project):
    error = refused(project, compiled(FileSource("nothing/*.csv", event_time="at")))
    assert isinstance(error, SourceUnavailableError)
    assert error.retryable


@pytest.fixture
def database(project: Project) -> sqlite3.Connection:
    connection = sqlite3.connect(project.folder / "limits.db")
    connection.execute(
        "CREATE TABLE limits (card_id TEXT, credit INTEGER, rate, blocked BOOLEAN, at TEXT, loaded INTEGER)"
    )
    return connection


def sql(query: str = "SELECT * FROM limits ORDER BY at", url: str = "sqlite:///limits.db") -> CompiledBatchView:
    """A view of the SQLite database."""
    source = SQLSource(url, query, event_time="at", created_time="loaded")
    return compiled(source, rate=pl.Float64, blocked=pl.Boolean)


def insert(connection: sqlite3.Connection, *rows: tuple[object, ...]) -> None:
    """Rows (card, credit, rate, blocked, at, loaded in ms)."""
    connection.executemany("INSERT INTO limits VALUES (?, ?, ?, ?, ?, ?)", rows)
    connection.commit()


def test_the_rows_of_a_query(project: Project, database: sqlite3.Connection):
    insert(
        database,
        ("a", 1, 1, 1, "2026-11-23 01:00:00", 1795395600000),
        ("b", None, 2.5, 0, "2026-11-23T02:00:00Z", None),
    )
    done = project.materialize(sql(), 5)[0]
    assert (done.read, done.rows) == (2, 2)
    assert project.rows(sql()).select("card_id", "credit", "rate", "blocked").rows() == [
        ("a", 1, 1.0, True),
        ("b", None, 2.5, False),
    ]
    insert(database, ("a", 9, None, None, "2026-11-23 00:30:00", 1795395600001))
    assert project.materialize(sql(), 6)[0].rows == 1  # late, and found: the query gives all rows
    assert project.read(sql(), ["a"], 7).columns["credit"].values == [1]


def test_a_query_may_ask_for_the_interval_alone(project: Project, database: sqlite3.Connection):
    view = sql("SELECT * FROM limits WHERE at >= :from_time AND at < :to_time ORDER BY at")
    insert(database, ("a", 1, None, None, "2026-11-23 01:00:00", None))
    assert project.materialize(view, 5)[0].read == 1
    insert(database, ("a", 2, None, None, "2026-11-23 06:00:00", None))
    assert project.materialize(view, 7)[0].read == 1
    assert project.read(view, ["a"], 8).columns["credit"].values == [2]


@pytest.mark.parametrize(
    ("view", "kind", "says"),
    [
        (sql("SELECT nope FROM limits"), SourceError, "no such column: nope"),
        (sql("SELECT card_id FROM limits"), SchemaError, "field 'credit' is not in the query"),
        (sql("SELECT *, at AS credit FROM limits"), SourceError, "two columns 'credit'"),
        (sql(url="sqlite:///nowhere.db"), SourceUnavailableError, "there is no SQLite database"),
        (sql(url="env:FEATURESTORE_TEST_NO_URL"), ConfigError, "FEATURESTORE_TEST_NO_URL is not set"),
        (sql(url="nosuch://host/db"), ConfigError, "knows no such database"),
    ],
)
def test_a_query_that_fails_is_told(
    project: Project, database: sqlite3.Connection, view: CompiledBatchView, kind: type[FeatureStoreError], says: str
):
    error = refused(project, view)
    assert type(error) is kind
    assert says in str(error)
    assert not (project.folder / "nowhere.db").exists()


def test_a_column_of_several_types_is_refused(project: Project, database: sqlite3.Connection):
    insert(database, ("a", 1, 1.5, None, "2026-11-23", None), ("a", 1, "x", None, "2026-11-23", None))
    assert "column 'rate' of the query holds values of several types: float, str" in str(refused(project, sql()))


def test_a_password_is_not_shown(project: Project, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(os.environ, "LIMITS_URL", "postgresql://me:hunter2@127.0.0.1:1/limits")
    error = refused(project, sql(url="env:LIMITS_URL"))
    assert "hunter2" not in str(error)
