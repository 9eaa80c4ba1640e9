"""`featurestore offline import` as a person and a program meet it, and what backfills and training sets then say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import polars as pl
import pytest

from featurestore.cli.init import write_project
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.embedded import EmbeddedBroker
from tests.cli.support import answer, command, run_until_end, send

DAY_MS = 86_400_000
MERCHANT_DAYS = """
from featurestore import StreamFeatureView, agg
from pipelines.transactions import merchant, transactions

merchant_days = StreamFeatureView(
    "merchant_days", source=transactions, entities=[merchant], features=[agg.count(over="24h")]
)
"""


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A project that has read some thousand events, and files of the day before beside it."""
    folder = tmp_path / "project"
    write_project(folder)
    (folder / "pipelines" / "merchant_days.py").write_text(MERCHANT_DAYS)
    shape = Shape(events=2_000, cards=50, late_share=0, too_late_share=0, broken_share=0)
    rows = pl.DataFrame([json.loads(value) for _, value in TransactionStream(shape)], infer_schema_length=None)
    rows = rows.with_columns(pl.col("ts") - DAY_MS, pl.col("fx_rate").fill_null(1.0))
    (folder / "lake").mkdir()
    rows.head(1_500).write_parquet(folder / "lake" / "a.parquet")
    rows.tail(500).write_parquet(folder / "lake" / "b.parquet")
    with EmbeddedBroker(folder / "data") as broker:
        send(broker, TransactionStream(shape))
        run_until_end(folder)
        yield folder


def test_people_are_told_what_is_imported_and_what_is_left_out(project: Path):
    planned = command(project, "offline", "import", "transactions", "lake", "--dry-run")
    assert planned.returncode == 0, planned.stderr
    assert "2,000 rows in 2 files" in planned.stdout
    assert "would be imported: 2,000 events from 2026-11-19T" in planned.stdout
    done = command(project, "offline", "import", "transactions", "lake")
    assert "imported: 2,000 events" in done.stdout
    again = command(project, "offline", "import", "transactions", "lake/*.parquet")
    assert again.returncode == 0, again.stderr
    assert "left out: 2,000 rows" in again.stdout
    assert "nothing to import: no row is older" in again.stdout
    (dataset,) = (one for one in answer(project, "offline", "ls")["datasets"] if one["dataset"].startswith("events/"))
    assert (dataset["rows"], dataset["earliest"][:10]) == (4_000, "2026-11-19")


def test_what_can_not_be_says_how_it_could(project: Path):
    unknown = command(project, "offline", "import", "transaction", "lake")
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "there is no source 'transaction'" in unknown.stderr
    late = command(project, "offline", "import", "transactions", "lake", "--before", "2027-01-01T00:00:00Z")
    assert late.returncode == 1
    assert "would count events twice" in late.stderr
    assert "say --before 2026-11-20T07:5" in late.stderr
    nothing = command(project, "offline", "import", "transactions", "sea/*.parquet")
    assert "no file matches" in nothing.stderr
    assert answer(project, "offline", "import", "transactions", "lake", "--dry-run")["rows"] == 2_000


def test_a_backfill_under_way_begins_anew_and_says_of_what_the_view_knows_nothing(project: Path):
    module = "pipelines/merchant_days.py"
    worker_has = command(project, "backfill", module, "--apply", "--view", "merchant_days", "--json")
    assert worker_has.returncode == 0, worker_has.stderr
    assert command(project, "view", "reset", "merchant_days", "--yes").returncode == 0
    # A hand-over that waits: the worker of another module holds the source meanwhile.
    from featurestore.online.source_store import lock_source

    lock = lock_source(project / "data", "transactions")
    try:
        waits = answer(project, "backfill", module)["sources"][0]
    finally:
        lock.release()
    assert (waits["finished"], waits["taken_in"], waits["partial"]) == (True, False, [])
    answer(project, "offline", "import", "transactions", "lake")
    planned = answer(project, "backfill", module, "--dry-run")["sources"][0]
    assert sum(part["events"] for part in planned["to_read"]) == 4_000
    filled = command(project, "backfill", module, "--json")
    assert filled.returncode == 0, filled.stderr
    assert "backfill_begins_anew" in filled.stderr
    assert "Warning: the archive may lack events before 2026-11-19T" in filled.stderr
    (source,) = json.loads(filled.stdout)["sources"]
    assert source["taken_in"]
    (partial,) = source["partial"]
    assert (partial["view"], partial["complete_from"][:10]) == ("merchant_days@2", "2026-11-20")
    verified = command(project, "offline", "verify")
    assert verified.returncode == 0, verified.stdout
    states = answer(project, "status")["views"]
    assert {view["name"]: view["applied"] + view["filtered"] for view in states}["merchant_days"] == 4_000


def test_a_training_set_says_how_many_rows_reach_before_the_archive(project: Path):
    answer(project, "offline", "import", "transactions", "lake")
    instants = ["2026-11-19T09:00:00Z", "2026-11-19T20:00:00Z", "2026-11-20T09:00:00Z"]
    (project / "spine.csv").write_text("card_id,event_timestamp\n" + "".join(f"card_000001,{t}\n" for t in instants))
    arguments = ("training-set", "--spine", "spine.csv", "--out", "out.parquet")
    hours = command(project, *arguments, "--features", "card_activity:count_24h")
    assert hours.returncode == 0, hours.stderr
    assert "windows of card_activity reach there in 2 of 3 rows and are complete from 2026-11-20T" in hours.stderr
    minutes = command(project, *arguments, "--features", "card_activity:count_10m")
    assert "Warning" not in minutes.stderr
    (partial,) = answer(project, *arguments, "--features", "card_activity:count_24h")["partial"]
    assert (partial["view"], partial["rows"], len(partial["missing"])) == ("card_activity", 2, 1)
