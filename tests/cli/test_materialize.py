"""`featurestore materialize` as a scheduler runs it: exit codes, documents, kills."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import polars.testing
import pytest

from featurestore.online.source_store import lock_source
from tests.cli.support import ROOT, answer, command

MODULE = """
import polars as pl
from featurestore import BatchFeatureView, Entity, Field, FileSource

card = Entity("card", join_keys={"card_id": pl.String})
limits = BatchFeatureView(
    "limits", source=FileSource("limits/*.csv", event_time="at", created_time="loaded"), entities=[card],
    features=[Field("credit", pl.Int64)],
)
tiers = BatchFeatureView(
    "tiers", source=FileSource("tiers/*.csv", event_time="at"), entities=[card], features=[Field("tier", pl.String)],
)
"""
LIMITS = "card_id,credit,at,loaded\nc1,100,2026-01-01,2026-01-01\nc2,200,2026-01-02,2026-01-03\n"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project of two batch views; only the first has a file."""
    (tmp_path / "features.py").write_text(MODULE)
    (tmp_path / "limits").mkdir()
    (tmp_path / "limits" / "1.csv").write_text(LIMITS)
    return tmp_path


def test_apply_tells_which_sources_it_could_not_check(project: Path):
    done = command(project, "apply", "features.py")
    assert done.returncode == 0
    assert "+ batch view limits version 1" in done.stdout
    assert "view 'tiers' is not checked against its source" in done.stderr
    assert "'limits' is not" not in done.stderr


def test_apply_refuses_a_view_that_its_files_do_not_fit(project: Path):
    (project / "limits" / "1.csv").write_text(LIMITS.replace("credit", "kredit"))
    for name in ("plan", "apply"):
        done = command(project, name, "features.py")
        assert done.returncode == 1
        assert "field 'credit' is not in file 1.csv" in done.stderr
    assert not (project / "data").exists()


def test_a_view_that_fails_does_not_keep_the_others_from_being_done(project: Path):
    done = command(project, "materialize", "features.py", "--apply", "--json")
    assert done.returncode == 75
    document = json.loads(done.stdout)
    assert [one["view"] for one in document["materialized"]] == ["limits"]
    assert [(one["view"], one["retryable"]) for one in document["failed"]] == [("tiers", True)]
    assert "Error: view 'tiers@1': source tiers/*.csv: no file matches" in done.stderr
    (project / "tiers").mkdir()
    (project / "tiers" / "1.csv").write_text("card_id,tier,at\nc1,gold,soon\n")
    assert command(project, "materialize").returncode == 1  # trying again does not help
    (project / "tiers" / "1.csv").write_text("card_id,tier,at\nc1,gold,2026-01-01\n")
    done = command(project, "materialize")
    assert done.returncode == 0
    assert "tiers" in done.stdout
    read = answer(project, "get", "limits:credit", "tiers:tier", "-e", "card_id=c1")
    assert [column["values"] for column in read["results"]] == [["c1"], [100], ["gold"]]


def test_views_by_name_by_module_and_both(project: Path):
    command(project, "apply", "features.py")
    for targets in (["limits"], ["features", "limits"], ["features.py", "limits"]):
        assert {one["view"] for one in answer(project, "materialize", *targets)["materialized"]} == {"limits"}
    status = answer(project, "status")["batch_views"]
    assert [(view["name"], view["entities"], view["unfinished"]) for view in status] == [
        ("limits", 2, False),
        ("tiers", 0, False),
    ]
    (dataset,) = answer(project, "offline", "ls")["datasets"]
    assert (dataset["dataset"], dataset["rows"]) == ("features/limits/v1/batch", 2)
    assert (dataset["time_column"], dataset["latest"]) == ("event_timestamp", "2026-01-02T00:00:00Z")
    assert status[0]["newest_row"] == "2026-01-02T00:00:00Z"
    assert status[1]["materialized_until"] is None
    assert "featurestore materialize tiers" in command(project, "status").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["features.py"], 1, "there is no registry"),
        (["limits"], 1, "there is no registry at"),
        (["--apply"], 1, "--apply needs a module"),
        (["features.py", "nope", "--apply"], 1, "there is no batch view 'nope'"),
        (["features.py", "--apply", "--from", "yesterday"], 1, "is not an ISO 8601 instant"),
        (["features.py", "limits", "--apply", "--to", "2999-01-01T00:00:00Z"], 1, "lies in the future"),
        (["--since", "1"], 2, "No such option"),
    ],
)
def test_what_is_refused(project: Path, arguments: list[str], code: int, says: str):
    done = command(project, "materialize", *arguments)
    assert (done.returncode, says in done.stderr) == (code, True), done.stderr


def test_definitions_that_differ_from_what_is_applied_are_refused(project: Path):
    command(project, "apply", "features.py")
    (project / "features.py").write_text(MODULE.replace("pl.Int64", "pl.Float64"))
    done = command(project, "materialize", "features.py")
    assert done.returncode == 1
    assert "the definitions differ" in done.stderr
    done = command(project, "materialize", "features.py", "limits", "--apply")
    assert done.returncode == 1  # another type under a served name may break its readers
    assert "--allow-breaking" in done.stderr
    assert command(project, "apply", "features.py", "--allow-breaking").returncode == 0
    done = command(project, "materialize", "features.py", "limits", "--apply", "--json")
    document = json.loads(done.stdout)
    assert [one["version"] for one in document["materialized"]] == [1, 2]
    assert document["promoted"] == ["limits@2"]  # applied, and never served


def test_a_run_beside_another_one_is_told_its_pid(project: Path):
    command(project, "apply", "features.py")
    lock = lock_source(project / "data", "batch-views/limits")
    try:
        done = command(project, "materialize", "limits")
    finally:
        lock.release()
    assert done.returncode == 75
    assert f"batch view 'limits' is being materialized by process {os.getpid()}" in done.stderr


def test_a_worker_has_nothing_to_run_there(project: Path):
    done = command(project, "run", "features.py")
    assert done.returncode == 1
    assert "define no stream view" in done.stderr


def offline_rows(project: Path) -> pl.DataFrame:
    """Every row of limits, sorted."""
    return pl.read_parquet(project / "data/offline/features/limits/v1/batch/*.parquet").sort(pl.all())


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.0, 0.4])
def test_killed_half_way_and_started_again_gives_the_same(project: Path, tmp_path: Path, delay_s: float):
    rows = 800_000
    cards = pl.int_range(rows, eager=True)
    seconds = pl.int_range(rows, eager=True) % 86_400
    pl.DataFrame(
        {
            "card_id": "c" + (cards * 7919 % 200_000).cast(pl.String),
            "credit": cards,
            "at": pl.Series([1_767_225_600_000]).new_from_index(0, rows) + seconds * 1_000,
            "loaded": pl.Series([1_767_312_000_000]).new_from_index(0, rows) + cards,
        }
    ).write_csv(project / "limits" / "2.csv")
    command(project, "apply", "features.py")
    parts = project / "data/offline/features/limits/v1/batch"
    process = subprocess.Popen(
        [sys.executable, "-m", "featurestore", "materialize", "limits"],
        cwd=project,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    until = time.monotonic() + 30
    while not list(parts.glob("*.parquet")) and time.monotonic() < until:
        time.sleep(0.005)
    time.sleep(delay_s)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was done before it could be killed"
    first, second = answer(project, "materialize", "limits")["materialized"]
    assert (first["resumed"], first["read"], second["resumed"]) == (True, rows + 2, False)
    assert first["entities"] == 200_000
    whole = offline_rows(project)
    assert len(whole) == rows + 2
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    (quiet / "features.py").write_text(MODULE)
    (quiet / "limits").symlink_to(project / "limits")
    assert command(quiet, "materialize", "features.py", "limits", "--apply").returncode == 0
    polars.testing.assert_frame_equal(whole, offline_rows(quiet))
    asked = [part for card in ("c0", "c1", "c7919", "c199999") for part in ("-e", f"card_id={card}")]
    assert answer(project, "get", "limits:credit", *asked) == answer(quiet, "get", "limits:credit", *asked)
