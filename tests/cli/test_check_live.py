"""`featurestore check --live`: contracts held to the snapshots of a worker's run."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from featurestore.cli.init import write_project
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.embedded import EmbeddedBroker
from tests.cli.support import command, run_until_end, send


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("live") / "project"
    write_project(folder)
    (folder / "contracts").mkdir()
    with EmbeddedBroker(folder / "data") as broker:
        send(broker, TransactionStream(Shape(events=3_000)))
        run_until_end(folder)
    return folder


def live(project: Path, contract: str) -> list[dict[str, Any]]:
    """Findings on the contract, --live."""
    path = project / "contract.yaml"
    path.write_text(contract)
    done = command(project, "check", "--live", "--contract", "contract.yaml", "--json")
    assert done.stdout, done.stderr
    found = [one for one in json.loads(done.stdout)["findings"] if one["section"] == "live"]
    assert bool(done.returncode) == any(one["level"] == "failed" for one in found), done.stdout
    return found


def test_what_holds_is_told_with_how_many_entities(project: Path):
    # amount_eur_sum_tumbling_1m: of the tumbling window, another dataset than the sliding one's.
    features = "{count_1h: {min: 0}, amount_eur_sum_tumbling_1m: {dtype: Float64}}"
    contract = f"view: card_activity\nmax_age: 3650d\nfeatures: {features}"
    found = live(project, contract)
    assert [one["level"] for one in found] == ["ok", "ok"]
    assert "snapshots are complete up to" in found[0]["message"]
    assert found[1]["message"].startswith("2 features of ")


@pytest.mark.parametrize(
    ("promised", "subject", "says"),
    [
        ("features: {count_24h: {max: 0}}", ":count_24h", "in sliding snapshots: the largest value is"),
        (
            "features: {count_tumbling_1m: {max: 0}}",
            ":count_tumbling_1m",
            "in tumbling_1m snapshots: the largest value is",
        ),
        ("features: {merchant_id_last: {allowed: [nobody]}}", ":merchant_id_last", "is not among the allowed values"),
        ("features: {amount_eur_stddev_24h: {max_null_rate: 0}}", ":amount_eur_stddev_24h", "values are null"),
        ("max_age: 1us", "card_activity", "s ago; promised are at most 1us"),
    ],
)
def test_what_does_not_hold_is_named(promised: str, subject: str, says: str, project: Path):
    (found,) = live(project, f"view: card_activity\n{promised}\n")
    assert found["level"] == "failed"
    assert found["subject"].endswith(subject)
    assert says in found["message"]
