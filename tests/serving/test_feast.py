"""Feast's own SDK as a client of our server: what it reads, and which of our errors its user sees."""

from __future__ import annotations

import json
import math
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from featurestore.serving import FeatureService
from tests.factories import MINUTE
from tests.serving.feast_environment import INSTALL_TIMEOUT_S, NoFeastError, feast_python
from tests.serving.support import CARD, NOON, SECOND, TYPED_VIEWS, event, register, served, write_store

LARGEST = 2**63 - 1
READ_TIMEOUT_S = 60
READER = Path(__file__).with_name("feast_reader.py")
REQUIRED = os.environ.get("FEATURESTORE_REQUIRE_FEAST") == "1"

# The first test may have to install it.
pytestmark = pytest.mark.timeout(INSTALL_TIMEOUT_S + READ_TIMEOUT_S + 60)

EVENTS = [
    event("c1", account=-7, amount=3.0, merchant="café", number=LARGEST, flag=True, at_us=NOON - SECOND),
    event("nan", account=2, amount=math.nan, at_us=NOON - SECOND),
    event("inf", account=3, amount=-math.inf, at_us=NOON - SECOND),
    event("null", account=4, amount=None, at_us=NOON - SECOND),
    event("old", account=5, amount=1.0, at_us=NOON - 61 * MINUTE),
]
Ask = Callable[[list[dict[str, Any]]], list[dict[str, Any]]]
CARDS = ["c1", "nan", "inf", "null", "old", "nobody"]


@pytest.fixture(scope="module")
def ask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ask]:
    """What the SDK makes of some requests, in one process of its own."""
    try:
        python = feast_python()
    except NoFeastError as error:
        if REQUIRED:
            raise
        pytest.skip(f"no Feast: {error}")
    data_dir: Path = tmp_path_factory.mktemp("data")
    register(data_dir, [CARD, *TYPED_VIEWS])
    write_store(data_dir, EVENTS)
    service = FeatureService(data_dir, now_us=lambda: NOON)
    service.refresh(check=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment["FEAST_USAGE"] = "False"
    with served(service) as url:

        def run(requests: list[dict[str, Any]]) -> list[dict[str, Any]]:
            ended = subprocess.run(
                [str(python), str(READER), url, str(tmp_path_factory.mktemp("feast"))],
                input=json.dumps(requests),
                capture_output=True,
                text=True,
                env=environment,
                timeout=READ_TIMEOUT_S,
            )
            assert ended.returncode == 0, ended.stderr[-3000:]
            results: list[dict[str, Any]] = json.loads(ended.stdout)
            return results

        yield run


def test_it_reads_every_type_and_absence(ask: Ask) -> None:
    rows = [{"card_id": card} for card in CARDS]
    lasts = [f"by_text:{name}_last" for name in ("amount", "merchant", "number", "flag")]
    columns, counts, by_number, named = (
        result["values"]
        for result in ask(
            [
                {"features": lasts, "entity_rows": rows},
                {"features": ["card_activity:count_10m", "card_activity:amount_max_10m"], "entity_rows": rows},
                {"features": ["by_number:merchant_last"], "entity_rows": [{"account": -7}, {"account": 8}]},
                {
                    "features": ["by_text:flag_last", "by_number:flag_last"],
                    "entity_rows": [{"card_id": "c1", "account": 2}],
                    "full_feature_names": True,
                },
            ]
        )
    )
    assert columns["card_id"] == CARDS
    amounts = columns["amount_last"]
    assert amounts[0] == 3.0
    assert isinstance(amounts[0], float)
    assert amounts[1:] == ["NaN", "-Infinity", None, 1.0, None], "the SDK leaves these texts as they came"
    assert columns["merchant_last"] == ["café", "m1", "m1", "m1", "m1", None]
    assert columns["number_last"] == [LARGEST, 0, 0, 0, 0, None]
    assert columns["flag_last"] == [True, False, False, False, False, None]
    assert counts["count_10m"] == [1, 1, 1, 1, None, None]
    assert by_number == {"account": [-7, 8], "merchant_last": ["café", None]}
    assert named == {"card_id": ["c1"], "account": [2], "by_text__flag_last": [True], "by_number__flag_last": [False]}


def test_its_user_sees_our_errors(ask: Ask) -> None:
    count, row = "card_activity:count_10m", {"card_id": "c1"}
    view, feature, ragged, wrong, missing, twice = ask(
        [
            {"features": ["card_activiti:count_10m"], "entity_rows": [row]},
            {"features": ["card_activity:count_10"], "entity_rows": [row]},
            {"features": [count], "entity_rows": {"card_id": ["c1", "c2"], "x": [1]}},
            {"features": [count], "entity_rows": [{"card_id": 1}]},
            {"features": [count], "entity_rows": [{"card": "c1"}]},
            {"features": [count, count], "entity_rows": [row]},
        ]
    )
    assert view["error"] == "FeatureViewNotFoundException"
    assert "feature view 'card_activiti' does not exist" in view["message"]
    assert "did you mean 'card_activity'" in view["message"]
    assert feature["error"] == "SpecifiedFeaturesNotPresentError"
    assert "has no feature 'count_10'" in feature["message"]
    assert "did you mean 'count_10m'" in feature["message"]
    assert (ragged["error"], wrong["error"], missing["error"]) == ("FeastError",) * 3
    assert "'card_id' has 2, 'x' has 1" in ragged["message"]
    assert "'card_id' is String, but row 0 holds 1" in wrong["message"]
    assert "entity column 'card_id' is missing" in missing["message"]
    assert twice["error"] == "FeatureNameCollisionError"
    assert "is asked for twice" in twice["message"]


def test_it_reads_up_to_a_thousand_entities_and_shows_the_limit(ask: Ask) -> None:
    sizes = [1, 100, 1_000, 1_001]
    rows = [{"card_id": CARDS[n % 6]} for n in range(max(sizes))]
    *answers, refused = ask([{"features": ["by_text:number_last"], "entity_rows": rows[:size]} for size in sizes])
    expected = [LARGEST, 0, 0, 0, 0, None]
    for size, answer in zip(sizes, answers):
        assert answer["values"]["number_last"] == [expected[n % 6] for n in range(size)]
    assert "1,001 entities, the server takes 1,000 (max_entities)" in refused["message"]
