"""`featurestore status` over the embedded broker: figures that add up, and clear words for what is not there."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.examples import write_project
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.sources.produce import produce
from tests.commands import run_command

ROOT = Path(__file__).resolve().parents[2]
EVENTS = 5_000


def command(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FEATURESTORE_WORKER__METRICS_PORT": "0"}
    return run_command(arguments, project, environment, 60)


def status(project: Path) -> dict[str, list[dict[str, object]]]:
    done = command(project, "status", "--json")
    assert done.returncode == 0, done.stderr
    document: dict[str, list[dict[str, object]]] = json.loads(done.stdout)
    return document


def send(broker: EmbeddedBroker, stream: TransactionStream) -> None:
    assert broker.address is not None
    produce(broker.address.bootstrap_servers, "transactions", stream, {})


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project that has read EVENTS messages, has 100 unread ones, and whose broker is still there."""
    folder = tmp_path_factory.mktemp("status") / "project"
    write_project(folder)
    with EmbeddedBroker(folder / "data") as broker:
        send(broker, TransactionStream(Shape(events=EVENTS, broken_share=0.01, too_late_share=0.01)))
        done = command(folder, "run", "pipelines/transactions.py", "--apply", "--until-end")
        assert done.returncode == 0, done.stderr
        send(broker, TransactionStream(Shape(events=100)))
        yield folder


def test_the_counters_add_up_and_unread_messages_are_lag(project: Path):
    report = status(project)
    (source,) = report["sources"]
    assert source["read"] == EVENTS
    assert source["accepted"] + source["late"] + sum(source["dead_letters"].values()) == EVENTS
    assert source["late"] > 0
    assert source["dead_letters"]["malformed"] > 0
    assert source["lag"] == 100
    assert sum(partition["lag"] for partition in source["partitions"]) == 100
    assert source["broker_error"] is None
    for view in report["views"]:
        assert view["applied"] + view["filtered"] + view["null_key"] == source["accepted"]
        assert view["entities"] > 0
        assert view["watermark"] < view["newest_event"]
        assert view["from_beginning"]
        assert view["complete_since"] is not None


def test_people_get_tables_with_the_same_figures(project: Path):
    (source,) = status(project)["sources"]
    done = command(project, "status")
    assert done.returncode == 0, done.stderr
    for shown in ("transactions", "card_activity", "merchant_activity", f"{source['accepted']:,}", "malformed"):
        assert shown in done.stdout


def test_a_broker_that_is_not_there_costs_the_lag_alone(project: Path):
    done = command(project, "status", "--bootstrap-servers", "127.0.0.1:1", "--json")
    assert done.returncode == 0, done.stderr
    (source,) = json.loads(done.stdout)["sources"]
    assert source["lag"] is None
    assert "127.0.0.1:1" in source["broker_error"]
    assert source["read"] == EVENTS
    told = command(project, "status", "--bootstrap-servers", "127.0.0.1:1")
    assert "no broker answers" in told.stdout


def test_before_the_first_run_nothing_is_counted(tmp_path: Path):
    write_project(tmp_path)
    assert command(tmp_path, "apply", "pipelines/transactions.py").returncode == 0
    report = status(tmp_path)
    (source,) = report["sources"]
    assert source["read"] == 0
    assert not source["has_store"]
    assert "featurestore broker" in command(tmp_path, "status").stdout or source["broker_error"]
    assert [view["watermark"] for view in report["views"]] == [None, None]
    shown = json.loads(command(tmp_path, "watermark", "show", "--json").stdout)
    assert [(view["watermark"], view["partitions"], view["held_back_by"]) for view in shown] == [(None, [], None)] * 2
    options = ("--to", "2026-01-01T00:00:00Z", "--reason", "x", "--yes")
    assert "it has none" in command(tmp_path, "watermark", "reset", "card_activity", *options).stderr


def test_watermarks_are_told_with_the_partition_that_holds_them_back(project: Path):
    done = command(project, "watermark", "show", "--json")
    assert done.returncode == 0, done.stderr
    told = {view["name"]: view for view in status(project)["views"]}
    found = json.loads(done.stdout)
    assert [view["name"] for view in found] == sorted(told)
    for view in found:
        newest = {part["partition"]: part["newest_event"] for part in view["partitions"]}
        assert view["watermark"] == view["partitions_watermark"] == told[view["name"]]["watermark"]
        assert view["ahead"] is None
        assert newest[view["held_back_by"]] == min(newest.values())
        assert max(newest.values()) == told[view["name"]]["newest_event"]
    shown = command(project, "watermark", "show", "card_activity").stdout
    assert f"partition {found[0]['held_back_by']}" in shown
    assert "merchant_activity" not in shown


def test_a_views_freshness_is_held_against_its_slo_without_a_new_version(project: Path):
    module = project / "pipelines" / "transactions.py"
    text = (
        module.read_text()
        .replace("import Entity,", "import SLO, Entity,")
        .replace('    ttl="7d",\n', '    ttl="7d",\n    slo=SLO(freshness="36500d"),\n', 1)
    )
    for freshness, told in (("36500d", "keeps its freshness SLO of 36500.0 d"), ("1us", "misses its freshness SLO")):
        module.write_text(text.replace("36500d", freshness))
        done = command(project, "apply", "pipelines/transactions.py")
        assert "~ view card_activity version 1" in done.stdout, done.stderr
        assert f"card_activity: {told}" in command(project, "status").stdout
    slos = {view["name"]: view["freshness_slo_s"] for view in status(project)["views"]}
    assert slos == {"card_activity": 1e-6, "merchant_activity": None}


def test_a_folder_without_data_or_registry_says_what_to_do(tmp_path: Path):
    done = command(tmp_path, "status")
    assert done.returncode == 1
    assert "featurestore init" in done.stderr
    (tmp_path / "data").mkdir()
    done = command(tmp_path, "status")
    assert done.returncode == 1
    assert "featurestore apply" in done.stderr
