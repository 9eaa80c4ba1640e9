"""Feast's SDK as a client of our server, in an environment of its own (`feast_requirements.lock`)."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from featurestore.serving.service import FeatureService
from tests.serving import feast_environment
from tests.serving.feast_environment import INSTALL_TIMEOUT_S, NoFeastError
from tests.serving.support import NOON, event, register, served, write_store

HERE = Path(__file__).parent
# The first test may have to install it.
pytestmark = pytest.mark.timeout(2 * INSTALL_TIMEOUT_S)


@pytest.fixture(scope="module")
def feast_python() -> Path:
    """An interpreter that has Feast."""
    try:
        return feast_environment.feast_python()
    except NoFeastError as error:
        if os.environ.get("FEATURESTORE_REQUIRE_FEAST") == "1":
            raise
        pytest.skip(f"no Feast: {error}")


CARDS = [{"card_id": key} for key in ("c1", "c2", "c3", "c4", "nobody")]
ACCOUNTS = [{"account": 2**53 + 1, "region": "eu"}, {"account": 2**53, "region": "eu"}]
COUNT = ["card_activity:count_10m"]
REQUESTS: dict[str, dict[str, Any]] = {
    "cards": {
        "features": [*COUNT, "card_activity:amount_sum_10m", "card_activity:merchant_last"],
        "entity_rows": CARDS,
    },
    "accounts": {
        "features": ["account_activity:count_10m"],
        "entity_rows": ACCOUNTS,
        "full_feature_names": True,
    },
    "view": {"features": ["nowhere:x"], "entity_rows": CARDS},
    "feature": {"features": ["card_activity:x"], "entity_rows": CARDS},
    "text key": {"features": COUNT, "entity_rows": [{"card_id": 1}]},
    "missing key": {"features": COUNT, "entity_rows": [{"card": "c1"}]},
    "number key": {"features": ["account_activity:count_10m"], "entity_rows": [{"account": "1", "region": "eu"}]},
    "ragged": {"features": COUNT, "entity_rows": {"card_id": ["c1", "c2"], "other": [1]}},
    "twice": {"features": COUNT * 2, "entity_rows": CARDS},
    "thousand": {"features": COUNT, "entity_rows": CARDS * 200},
    "too many": {"features": COUNT, "entity_rows": CARDS * 201},
}


@pytest.fixture(scope="module")
def answers(feast_python: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the SDK gives its user for each of REQUESTS; one process, for it takes seconds to start."""
    data_dir = tmp_path_factory.mktemp("feast")
    register(data_dir)
    events = [
        event("c1", amount=3.0, account=2**53 + 1, at_us=NOON),
        event("c2", amount=float("nan"), at_us=NOON),
        event("c3", amount=float("inf"), at_us=NOON),
        event("c4", amount=None, at_us=NOON),
    ]
    write_store(data_dir, events)
    service = FeatureService(data_dir, clock="event")
    service.refresh(check=True)
    with served(service) as url:
        done = subprocess.run(
            [feast_python, HERE / "feast_client.py", url, json.dumps(list(REQUESTS.values()))],
            capture_output=True,
            text=True,
            timeout=200,
            env={**os.environ, "FEAST_USAGE": "False", "PYTHONPATH": "", "PYTHONWARNINGS": "ignore"},
        )
    assert done.returncode == 0, done.stderr[-2_000:]
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return dict(zip(REQUESTS, lines, strict=True))


def test_the_sdk_reads_values_of_every_kind(answers: dict[str, dict[str, Any]]) -> None:
    values = answers["cards"]["values"]
    assert values["card_id"] == ["c1", "c2", "c3", "c4", "nobody"]
    assert values["count_10m"] == [1, 1, 1, 1, None]
    assert values["merchant_last"] == ["m1", "m1", "m1", "m1", None]
    total = values["amount_sum_10m"]
    assert (total[0], total[3], total[4]) == (3.0, 0.0, None)
    assert isinstance(total[0], float)
    assert total[1:3] == ["NaN", "Infinity"], "the SDK leaves these texts as they came"


def test_the_sdk_reads_a_thousand_entities(answers: dict[str, dict[str, Any]]) -> None:
    assert answers["thousand"]["values"]["count_10m"] == [1, 1, 1, 1, None] * 200


def test_the_sdk_reads_by_two_keys_one_of_them_an_integer_beyond_a_doubles(answers: dict[str, dict[str, Any]]) -> None:
    values = answers["accounts"]["values"]
    assert values["account_activity__count_10m"] == [1, None]
    assert values["account"] == [2**53 + 1, 2**53]


@pytest.mark.parametrize(
    ("request_name", "error", "says"),
    [
        ("view", "FeatureViewNotFoundException", "nowhere"),
        ("feature", "SpecifiedFeaturesNotPresentError", "'x'"),
        ("text key", "FeastError", "'card_id' is String, but row 0 holds 1"),
        ("missing key", "FeastError", "'card_id' is missing"),
        ("number key", "FeastError", "'account' is Int64"),
        ("ragged", "FeastError", "'card_id' has 2, 'other' has 1"),
        ("twice", "FeatureNameCollisionError", "is asked for twice"),
        ("too many", "FeastError", "1,005 entities, the server takes 1,000 (max_entities)"),
    ],
)
def test_the_sdk_shows_its_user_what_is_wrong(
    answers: dict[str, dict[str, Any]], request_name: str, error: str, says: str
) -> None:
    said = answers[request_name]
    assert said["error"] == error, said
    assert says in said["message"], said
