"""Names of datasets, without passwords; and when lineage events are wanted at all."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from featurestore.definitions.specs import BatchViewSpec, FileSourceSpec, SourceSpec, SQLSourceSpec
from featurestore.lineage_events import LineageRun, emitter
from featurestore.lineage_events.datasets import batch_source_dataset, topic_dataset
from featurestore.registry.jobs import JobRecord

VARIABLES = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE_DISABLED", "OPENLINEAGE__TRANSPORT__TYPE")
SOURCE = SourceSpec(
    name="payments",
    topic="payments.v1",
    schema="payments.avsc",
    format="avro",
    event_time="ts",
    max_out_of_orderness_us=0,
    allowed_lateness_us=0,
    idle_timeout_us=1,
    max_future_us=1,
    columns=(),
)


@pytest.mark.parametrize(
    ("servers", "namespace"),
    [
        ("broker:9093", "kafka://broker:9093"),
        ("one:9092,two:9092", "kafka://one:9092"),
        ("SASL_SSL://broker:9093", "kafka://broker:9093"),
        ("broker", "kafka://broker:9092"),
    ],
)
def test_a_topic_is_named_after_its_first_server(servers: str, namespace: str):
    found = topic_dataset(SOURCE, servers)
    assert (found.namespace, found.name) == (namespace, "payments.v1")


@pytest.mark.parametrize(
    ("source", "place"),
    [
        (FileSourceSpec(path="a/*.csv", format="csv", event_time="at"), ("file", "/base/a/*.csv")),
        (FileSourceSpec(path="/x/../a", format="csv", event_time="at"), ("file", "/a")),
        (
            FileSourceSpec(path="s3://bucket/a/*.parquet", format="parquet", event_time="at"),
            ("s3://bucket", "a/*.parquet"),
        ),
        (
            SQLSourceSpec(url="postgresql+psycopg://me:secret@db:5432/shop", query="SELECT 1", event_time="at"),
            ("postgres://db:5432", "shop.limits query"),
        ),
        (SQLSourceSpec(url="env:SHOP", query="SELECT 1", event_time="at"), ("mysql://db", "shop.limits query")),
        (SQLSourceSpec(url="env:NOT_SET", query="SELECT 1", event_time="at"), ("featurestore", "limits query")),
        (SQLSourceSpec(url="sqlite:///a.db", query="SELECT 1", event_time="at"), ("file", "/base/a.db.limits query")),
    ],
)
def test_a_batch_source_is_named_without_its_password(
    source: FileSourceSpec | SQLSourceSpec, place: tuple[str, str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENLINEAGE_NAMESPACE", raising=False)
    monkeypatch.setenv("SHOP", "mysql://me:secret@db/shop")
    view = BatchViewSpec(name="limits", source=source, entities=(), features=())
    found = batch_source_dataset(view, Path("/base"))
    assert (found.namespace, found.name) == place


@pytest.mark.parametrize(
    ("variables", "file", "wanted"),
    [
        ({}, None, False),
        ({}, "openlineage.yml", True),
        ({}, ".openlineage/openlineage.yml", True),
        ({"OPENLINEAGE_URL": "http://x"}, None, True),
        ({"OPENLINEAGE_URL": ""}, None, False),
        ({"OPENLINEAGE__TRANSPORT__TYPE": "http"}, None, True),
        ({"OPENLINEAGE_CONFIG": "x.yml"}, None, True),
        ({"OPENLINEAGE_URL": "http://x", "OPENLINEAGE_DISABLED": "True"}, None, False),
    ],
)
def test_events_are_sent_only_where_openlineage_is_configured(
    variables: dict[str, str], file: str | None, wanted: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    if file is not None:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    assert emitter._configured() is wanted


def test_a_client_that_is_not_installed_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENLINEAGE_URL", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "openlineage.client", None)
    with capture_logs() as logged:
        LineageRun(JobRecord("run", "a@1", "", None), "run.a", streaming=False).end("COMPLETE")
    assert [entry["event"] for entry in logged] == ["lineage_event_not_sent"]
    assert "featurestore[openlineage]" in logged[0]["error"]
