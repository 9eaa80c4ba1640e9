"""OpenLineage events of real commands, taken by a real receiver and read by OpenLineage's own classes."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from uuid import UUID

import polars as pl
import pytest

from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.embedded import EmbeddedBroker
from tests.cli.support import answer, command, run_until_end, send
from tests.cli.test_jobs import LIMITS, fill
from tests.lineage_events.openlineage_parser import parse_event

pytest.importorskip("openlineage.client")

VARIABLES = ("OPENLINEAGE_URL", "OPENLINEAGE_CONFIG", "OPENLINEAGE_NAMESPACE", "OPENLINEAGE_DISABLED")


class Receiver:
    """An HTTP server that keeps what it is sent and answers with `status`."""

    def __init__(self, status: int = 201) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.paths.append(self.path)
                receiver.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    started = Receiver()
    yield started
    started.close()


@pytest.fixture(autouse=True)
def nothing_configured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    folder.mkdir()
    (folder / "limits.py").write_text(LIMITS)
    return folder


def inputs_of(dataset: dict[str, Any], column: str) -> dict[str, list[str]]:
    """What a column is made from: column to kinds of transformation."""
    fields = dataset["facets"]["columnLineage"]["fields"][column]["inputFields"]
    return {field["field"]: [f"{t['type']} {t['subtype']}" for t in field["transformations"]] for field in fields}


def test_a_materialization_starts_and_completes(project: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch):
    fill(project)
    monkeypatch.setenv("OPENLINEAGE_URL", receiver.url)
    done = command(project, "materialize", "limits.py", "--apply", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["materialized"][0]["rows"] == 3
    assert set(receiver.paths) == {"/api/v1/lineage"}
    start, complete = receiver.bodies
    events = [parse_event(start), parse_event(complete)]
    assert [event.eventType.value for event in events if event.eventType] == ["START", "COMPLETE"]
    (job,) = answer(project, "jobs")["jobs"]
    assert {event.run.runId for event in events} == {str(UUID(job["id"]))}
    assert {(event.job.namespace, event.job.name) for event in events} == {("featurestore", "materialize.card_limits")}
    (read,) = complete["inputs"]
    assert (read["namespace"], read["name"]) == ("file", str(project / "limits" / "*.parquet"))
    online, offline = complete["outputs"]
    assert (online["namespace"], online["name"]) == ("featurestore", "card_limits@1")
    assert Path(offline["name"]) == project / "data" / "offline" / "features" / "card_limits" / "v1" / "batch"
    assert Path(offline["name"]).is_dir()
    assert offline["outputFacets"]["outputStatistics"]["rowCount"] == 3
    assert inputs_of(online, "credit_limit") == {
        "credit_limit": ["DIRECT IDENTITY"],
        "card_id": ["INDIRECT GROUP_BY"],
        "at": ["INDIRECT SORT"],
    }
    assert {field["name"]: field["type"] for field in online["facets"]["schema"]["fields"]} == {
        "card_id": "String",
        "credit_limit": "Int64",
    }


def test_a_materialization_that_fails_says_why(project: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENLINEAGE_URL", receiver.url)
    assert command(project, "materialize", "limits.py", "--apply").returncode == 75
    assert [parse_event(body).eventType.value for body in receiver.bodies] == ["START", "FAIL"]  # type: ignore[union-attr]
    with pytest.raises(AssertionError, match="surprise"):
        parse_event({**receiver.bodies[0], "surprise": 1})
    with pytest.raises(TypeError, match="runId"):
        parse_event({**receiver.bodies[0], "run": {"facets": {}}})
    told = receiver.bodies[1]["run"]["facets"]["errorMessage"]
    assert told["message"] == answer(project, "jobs")["jobs"][0]["error"]


def test_a_receiver_that_is_down_or_wrong_costs_events_only(project: Path, monkeypatch: pytest.MonkeyPatch):
    fill(project)
    with socket.socket() as taken:  # bound, not listening: every try is refused
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("OPENLINEAGE_URL", f"http://127.0.0.1:{taken.getsockname()[1]}")
        began = time.monotonic()
        done = command(project, "materialize", "limits.py", "--apply")
        assert time.monotonic() - began < 30
    assert done.returncode == 0
    assert done.stderr.count("lineage_event_not_sent") == 1
    assert "Retrying" not in done.stderr
    refusing = Receiver(status=400)
    try:
        monkeypatch.setenv("OPENLINEAGE_URL", refusing.url)
        done = command(project, "materialize", "card_limits")
        assert done.returncode == 0
        assert done.stderr.count("lineage_event_not_sent") == 1
        assert len(refusing.bodies) == 2
    finally:
        refusing.close()
    assert [job["outcome"] for job in answer(project, "jobs")["jobs"]] == ["succeeded"] * 2


def test_a_configuration_without_a_transport_prints_nothing(project: Path):
    fill(project)
    (project / "openlineage.yml").write_text("tags:\n  job:\n    team: risk\n")
    done = command(project, "materialize", "limits.py", "--apply", "--json")
    assert done.returncode == 0
    json.loads(done.stdout)
    assert "eventType" not in done.stderr


def test_a_run_and_a_training_set_tell_which_columns_they_read(tmp_path: Path):
    from featurestore.cli.init import write_project

    project = tmp_path / "stream"
    write_project(project)
    log = project / "events.jsonl"
    (project / "openlineage.yml").write_text(f"transport:\n  type: file\n  log_file_path: {log}\n  append: true\n")
    with EmbeddedBroker(project / "data") as broker:
        assert broker.address is not None
        send(broker, TransactionStream(Shape(events=500)))
        run_until_end(project)
    start, complete = [json.loads(line) for line in log.read_text().splitlines()]
    assert [parse_event(event).eventType.value for event in (start, complete)] == ["START", "COMPLETE"]  # type: ignore[union-attr]
    assert complete["job"]["name"] == "run.transactions"
    (topic,) = complete["inputs"]
    assert (topic["namespace"], topic["name"]) == (f"kafka://{broker.address.bootstrap_servers}", "transactions")
    outputs = {dataset["name"].removeprefix(f"{project}/data/offline/"): dataset for dataset in complete["outputs"]}
    views = ("card_activity", "merchant_activity")
    expected = {"events/transactions", *(f"{v}@1" for v in views), *(f"features/{v}/v1" for v in views)}
    assert outputs.keys() == expected
    common = {"ts": ["INDIRECT WINDOW"], "card_id": ["INDIRECT GROUP_BY"], "status": ["INDIRECT FILTER"]}
    for name in ("card_activity@1", "features/card_activity/v1"):
        assert inputs_of(outputs[name], "count_1h") == common
        value = {"amount": ["DIRECT AGGREGATION"], "fx_rate": ["DIRECT AGGREGATION"]}
        assert inputs_of(outputs[name], "amount_eur_sum_1h") == common | value

    instants = pl.DataFrame({"card_id": ["card_000001"], "event_timestamp": ["2026-11-02T00:00:00Z"], "label": [1]})
    instants.with_columns(pl.col("event_timestamp").str.to_datetime(time_zone="UTC")).write_parquet(
        project / "spine.parquet"
    )
    made = command(
        project,
        *("training-set", "--spine", "spine.parquet", "--out", "set.parquet", "--full-feature-names"),
        *("--features", "card_activity:amount_eur_sum_1h"),
    )
    assert made.returncode == 0, made.stderr
    complete = json.loads(log.read_text().splitlines()[-1])
    parse_event(complete)
    read = {dataset["name"] for dataset in complete["inputs"]}
    assert read == {str(project / "spine.parquet"), str(project / "data" / "offline" / "events" / "transactions")}
    (output,) = complete["outputs"]
    assert output["name"] == str(project / "set.parquet")
    assert output["outputFacets"]["outputStatistics"]["rowCount"] == 1
    assert inputs_of(output, "label") == {"label": ["DIRECT IDENTITY"]}
    assert "amount" in inputs_of(output, "card_activity__amount_eur_sum_1h")
