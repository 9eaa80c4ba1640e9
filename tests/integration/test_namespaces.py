"""Two teams that gave everything the same names, in one registry, one data_dir and one run."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest

from featurestore import FeatureStore
from featurestore.sources.embedded import EmbeddedBroker
from tests.cli.support import answer, command

BEGIN = datetime(2026, 1, 1, tzinfo=timezone.utc)
SCHEMA = """
{"type": "record", "name": "payment", "fields": [
  {"name": "card_id", "type": "string"}, {"name": "amount", "type": "double"},
  {"name": "at", "type": {"type": "long", "logicalType": "timestamp-millis"}}]}
"""
MODULE = """
import polars as pl
from featurestore import (
    BatchFeatureView, Entity, FeatureService, Field, FileSource, KafkaSource, StreamFeatureView, agg, lifetime,
)

def team(namespace, least):
    card = Entity(f"{namespace}card", join_keys={"card_id": pl.String})
    payments = KafkaSource(
        f"{namespace}payments", topic="payments", schema="payments.avsc", event_time="at", format="json"
    )
    activity = StreamFeatureView(
        f"{namespace}activity", source=payments, entities=[card], where=pl.col("amount") >= least,
        features=[agg.count(over=lifetime())], snapshot_every="10m",
    )
    limits = BatchFeatureView(
        f"{namespace}limits", source=FileSource(f"{namespace}limits.csv", event_time="at"), entities=[card],
        features=[Field("credit", pl.Int64)],
    )
    return activity, limits, FeatureService(f"{namespace}fraud", features=[activity, limits])

activity, limits, fraud = team("", 0)
risk_activity, risk_limits, risk_fraud = team("risk/", 50)
"""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Both teams' views over 100 payments of one card, amounts 0 to 99; team risk counts those from 50 on."""
    folder = tmp_path_factory.mktemp("namespaces")
    (folder / "features.py").write_text(MODULE)
    (folder / "payments.avsc").write_text(SCHEMA)
    (folder / "risk").mkdir()
    (folder / "limits.csv").write_text("card_id,credit,at\nc1,100,2026-01-01\n")
    (folder / "risk" / "limits.csv").write_text("card_id,credit,at\nc1,900,2026-01-01\n")
    events = pl.DataFrame({"card_id": "c1", "amount": [float(n) for n in range(100)]}).with_columns(
        at=BEGIN + pl.Series([timedelta(seconds=30 * n) for n in range(100)])
    )
    events.with_columns(pl.col("at").dt.epoch("ms")).write_ndjson(folder / "payments.jsonl")
    with EmbeddedBroker(folder / "data"):
        for arguments in (
            ["produce", "payments", "payments.jsonl", "--key", "card_id"],
            ["run", "features.py", "--apply", "--until-end"],
            ["materialize"],
        ):
            done = command(folder, *arguments)
            assert done.returncode == 0, done.stderr
        yield folder


def test_each_team_reads_its_own(project: Path):
    features = ["activity:count", "risk/activity:count", "limits:credit", "risk/limits:credit"]
    read = answer(project, "get", *features, "-e", "card_id=c1", "--full-feature-names")
    names = read["metadata"]["feature_names"]
    assert names == ["card_id", "activity__count", "risk/activity__count", "limits__credit", "risk/limits__credit"]
    assert [column["values"] for column in read["results"]] == [["c1"], [100], [50], [100], [900]]
    read = answer(project, "get", "--service", "risk/fraud", "-e", "card_id=c1")
    assert [column["values"] for column in read["results"]] == [["c1"], [50], [900]]


def test_training_data_tells_them_apart(project: Path):
    spine = pl.DataFrame({"card_id": ["c1"], "event_timestamp": [BEGIN + timedelta(days=1)]})
    store = FeatureStore(project)
    read = store.get_historical_features(
        spine, ["activity:count", "risk/activity:count", "risk/limits:credit"], full_feature_names=True
    )
    assert read.select(pl.exclude("card_id", "event_timestamp")).row(0) == (100, 50, 900)
    assert store.scan_snapshots("risk/activity").select(pl.col("count").max()).collect().item() < 50
    assert store.complete_until("risk/activity") is not None


def test_files_lie_in_folders_of_their_own(project: Path):
    datasets = {one["dataset"]: one["rows"] for one in answer(project, "offline", "ls")["datasets"]}
    assert datasets["events/risk.payments"] == datasets["events/payments"] == 100
    assert {"features/risk.activity/v1/sliding", "features/risk.limits/v1/batch"} <= set(datasets)
    assert not {name for name in datasets if name.count("/") > 3}


def test_lists_and_lineage_know_namespaces(project: Path):
    listed = [one["name"] for one in answer(project, "list", "--namespace", "risk")]
    assert sorted(listed) == ["risk/activity", "risk/card", "risk/fraud", "risk/limits", "risk/payments"]
    listed = [one["name"] for one in answer(project, "list", "views", "--namespace", "default")]
    assert sorted(listed) == ["activity", "limits"]
    reached = answer(project, "lineage", "risk/payments", "--downstream")["downstream"]
    assert {edge["target"]["name"] for edge in reached if edge["target"]["kind"] == "service"} == {"risk/fraud"}


def test_a_change_in_one_namespace_leaves_the_other(project: Path):
    module = project / "features.py"
    module.write_text(MODULE.replace('team("risk/", 50)', 'team("risk/", 90)'))
    done = command(project, "apply", "features.py", "--promote")
    assert done.returncode == 0, done.stderr
    versions = {name: answer(project, "versions", name)["versions"] for name in ("activity", "risk/activity")}
    assert [len(versions[name]) for name in ("activity", "risk/activity")] == [1, 2]
    done = command(project, "run", "features.py", "--until-end")
    assert done.returncode == 0, done.stderr
    read = answer(project, "get", "activity:count", "risk/activity:count", "risk/activity@1:count", "-e", "card_id=c1",
                  "--full-feature-names")  # fmt: skip
    assert [column["values"] for column in read["results"]][1:] == [[100], [10], [50]]
