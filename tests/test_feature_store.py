"""`FeatureStore`: valid rows and completeness of a real run's snapshots; the SQL of the documentation says the same."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import duckdb
import polars as pl
import polars.testing
import pytest

from featurestore import FeatureStore
from featurestore.cli.init import write_project
from featurestore.errors import MalformedRequestError, RegistryError, UnknownViewError
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.embedded import EmbeddedBroker
from tests.cli.support import ROOT, command, run_until_end, send

WINDOW = "tumbling_1m"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project whose windows were corrected: it read the same hours of payments twice, in two bounded runs."""
    folder = tmp_path_factory.mktemp("feature-store") / "project"
    write_project(folder)
    with EmbeddedBroker(folder / "data") as broker:
        for seed in (1, 2):
            send(broker, TransactionStream(Shape(events=2_000, duration_s=540, too_late_share=0.0), seed=seed))
            run_until_end(folder)
    return folder


def every_row(project: Path, window: str = WINDOW) -> pl.DataFrame:
    return pl.read_parquet(project / f"data/offline/features/card_activity/v1/{window}/*.parquet")


def test_of_each_key_and_window_the_highest_revision_remains(project: Path):
    rows = every_row(project)
    assert rows["revision"].max() > 0, "the test needs corrections"
    best = rows.group_by("card_id", "window_end").agg(pl.all().sort_by("revision").last())
    found = FeatureStore(project).scan_snapshots("card_activity", window=WINDOW).collect()
    by = ["card_id", "window_end"]
    pl.testing.assert_frame_equal(found.sort(by), best.select(found.columns).sort(by))


def test_a_filter_on_a_key_or_time_reaches_the_files(project: Path):
    rows = FeatureStore(project).scan_snapshots("card_activity", window=WINDOW)
    cut = every_row(project)["window_end"].median()
    plan = rows.filter(pl.col("card_id") == "card_000001", pl.col("window_end") > pl.lit(cut)).explain()
    scan = plan[plan.index("Parquet SCAN") :]
    assert "card_id" in scan
    assert "window_end" in scan


def test_the_documented_line_of_sql_gives_the_same_rows(project: Path, monkeypatch: pytest.MonkeyPatch):
    page = (ROOT / "docs" / "how-to" / "offline-data.md").read_text()
    sql = re.search(r"```sql\n(.*?)```", page, re.DOTALL)
    assert sql is not None
    monkeypatch.chdir(project)
    answer = duckdb.sql(sql[1])
    found = pl.DataFrame(answer.to_arrow_table())
    ours = FeatureStore().scan_snapshots("card_activity", window=WINDOW).collect()
    chosen, by = ["card_id", "revision", "count_tumbling_1m"], ["card_id", "window_end"]
    assert set(chosen) <= set(ours.columns)
    assert found.sort(by).select(chosen).rows() == ours.sort(by).select(chosen).rows()


def test_complete_until_is_the_watermark_minus_the_allowed_lateness(project: Path):
    until = FeatureStore(project).complete_until("card_activity")
    events = pl.read_parquet(project / "data/offline/events/transactions/**/*.parquet", hive_partitioning=False)
    watermark = events.group_by("_partition").agg(pl.col("event_time").max())["event_time"].min() - timedelta(seconds=5)
    assert isinstance(until, datetime)
    assert until == watermark - timedelta(minutes=10)
    assert command(project, "offline", "ls").returncode == 0, "the marker is no dataset"


def test_other_readers_are_not_disturbed_by_the_marker(project: Path):
    import pyarrow.dataset as arrow

    folder = project / "data/offline/features/card_activity/v1"
    assert (folder / "_complete.json").exists()
    assert pl.scan_parquet(folder / WINDOW).collect().height == every_row(project).height
    assert arrow.dataset(folder / WINDOW).count_rows() == every_row(project).height


def test_a_view_that_has_not_emitted_yet_gives_an_empty_frame_with_its_columns(tmp_path: Path, project: Path):
    write_project(tmp_path)
    assert command(tmp_path, "apply", "pipelines/transactions.py").returncode == 0
    store = FeatureStore(tmp_path)
    assert store.complete_until("card_activity") is None
    for window in (WINDOW, "sliding"):
        empty = store.scan_snapshots("card_activity", window=window).collect()
        assert empty.is_empty()
        assert empty.schema == every_row(project, window).schema


def test_what_is_not_there_is_told(tmp_path: Path, project: Path):
    store = FeatureStore(project)
    with pytest.raises(UnknownViewError, match="card_activty") as caught:
        store.scan_snapshots("card_activty", window=WINDOW)
    assert "card_activity" in str(caught.value)
    with pytest.raises(MalformedRequestError, match="which window") as caught:
        store.scan_snapshots("card_activity")
    assert WINDOW in caught.value.message
    with pytest.raises(MalformedRequestError, match="no window 'tumbling_2m'"):
        store.scan_snapshots("card_activity", window="tumbling_2m")
    with pytest.raises(RegistryError, match="no registry"):
        FeatureStore(tmp_path)
