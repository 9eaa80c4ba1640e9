"""`featurestore jobs` as people and programs see it, and the commands that leave a record."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pytest

from featurestore.cli.init import write_project
from tests.cli.support import MODULE, answer, command

LIMITS = """\
from featurestore import BatchFeatureView, Entity, Field, FileSource
import polars as pl

card_limits = BatchFeatureView(
    "card_limits",
    source=FileSource("limits/*.parquet", event_time="at"),
    entities=[Entity("card", join_keys={"card_id": pl.String})],
    features=[Field("credit_limit", pl.Int64)],
)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    write_project(folder)
    (folder / "limits.py").write_text(LIMITS)
    return folder


def fill(project: Path) -> None:
    instant = pl.lit("2026-11-01T00:00:00").str.to_datetime(time_zone="UTC")
    rows = pl.DataFrame({"card_id": ["a", "b", "c"], "credit_limit": [1, 2, 3]}).with_columns(at=instant)
    (project / "limits").mkdir()
    rows.write_parquet(project / "limits" / "1.parquet")


def test_materializations_leave_a_record_each_the_failed_ones_with_their_error(project: Path):
    failed = command(project, "materialize", "limits.py", "--apply")
    assert failed.returncode == 75, failed.stderr
    fill(project)
    assert command(project, "materialize", "card_limits").returncode == 0
    second, first = answer(project, "jobs")["jobs"]
    assert (second["kind"], second["subject"], second["outcome"]) == ("materialize", "card_limits@1", "succeeded")
    assert second["rows"] == 3
    assert first["outcome"] == "failed"
    assert "no file matches" in first["error"]
    assert [job["id"] for job in answer(project, "jobs", "--failed")["jobs"]] == [first["id"]]
    assert answer(project, "jobs", "--kind", "run")["jobs"] == []
    assert answer(project, "jobs", "show", first["id"][:12]) == first


def test_a_training_set_leaves_a_record(project: Path):
    fill(project)
    assert command(project, "materialize", "limits.py", "--apply").returncode == 0
    pl.DataFrame({"card_id": ["a", "b"], "event_timestamp": ["2026-11-02T00:00:00Z"] * 2}).with_columns(
        pl.col("event_timestamp").str.to_datetime(time_zone="UTC")
    ).write_parquet(project / "spine.parquet")
    made = ["training-set", "--spine", "spine.parquet", "--out", "set.parquet", "--features"]
    assert command(project, *made, "card_limits:credit_limit").returncode == 0
    assert command(project, *made, "card_limits:nothing").returncode == 1
    failed, done = answer(project, "jobs", "--kind", "training-set")["jobs"]
    assert (done["subject"], done["outcome"], done["rows"]) == ("card_limits@1", "succeeded", 2)
    assert done["definitions_hash"] == answer(project, "jobs", "--kind", "materialize")["jobs"][0]["definitions_hash"]
    assert failed["outcome"] == "failed"
    assert "has no feature 'nothing'" in failed["error"]


def test_promotions_and_the_like_leave_a_record(project: Path):
    assert command(project, "apply", MODULE).returncode == 0
    module = project / MODULE
    text = module.read_text()
    changed = text.replace('ttl="7d"', 'ttl="30d"')
    assert changed != text
    module.write_text(changed)
    assert command(project, "apply", MODULE).returncode == 0
    for done in (
        ("canary", "card_activity@2", "--share", "0.1"),
        ("canary", "card_activity", "--stop"),
        ("promote", "card_activity@2"),
        ("rollback", "card_activity"),
        ("retire", "card_activity@2", "--yes"),
    ):
        assert command(project, *done).returncode == 0, done
    found = [(job["kind"], job["subject"]) for job in answer(project, "jobs")["jobs"]]
    assert found == [
        ("retire", "card_activity@2"),
        ("rollback", "card_activity@1"),
        ("promote", "card_activity@2"),
        ("canary", "card_activity@1"),
        ("canary", "card_activity@2"),
    ]
    assert len(answer(project, "jobs", "--view", "card_activity@1")["jobs"]) == 2


def test_tables_for_people(project: Path):
    fill(project)
    assert command(project, "materialize", "limits.py", "--apply").returncode == 0
    table = command(project, "jobs").stdout
    (line,) = (line for line in table.splitlines() if "card_limits@1" in line)
    assert {"materialize", "succeeded", "3"} <= set(line.split())
    shown = command(project, "jobs", "show", line.split()[0]).stdout.splitlines()
    facts = {line.split()[0]: line.split()[1:] for line in shown if line}
    assert facts["of"] == ["card_limits@1"]
    assert facts["outcome"] == ["succeeded"]
    assert len(facts["definitions"][0]) == 64


def test_wrong_usage_is_told(project: Path):
    assert "featurestore apply" in command(project, "jobs").stderr
    assert command(project, "apply", MODULE).returncode == 0
    wrong = command(project, "jobs", "--kind", "sprint")
    assert wrong.returncode == 2
    assert "training-set" in wrong.stderr
    nothing = command(project, "jobs", "show", "123")
    assert nothing.returncode == 1
    assert "no job has an id that begins with '123'" in nothing.stderr
