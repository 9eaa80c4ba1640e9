"""What becomes of every kind of value and of key: over HTTP, through the client, and with `featurestore get`.

docs/http-api.md promises these outcomes.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import polars as pl
import pytest

from featurestore import Entity
from featurestore.cli import main
from featurestore.client import FeatureStoreClient
from featurestore.errors import DefinitionError, MalformedRequestError
from featurestore.serving import FeatureService
from tests.serving.support import NOON, ROOT, SECOND, TYPED_VIEWS, event, register, served, write_store

LARGEST, SMALLEST = 2**63 - 1, -(2**63)
BEYOND_DOUBLE = 2**53 + 1
ODD_TEXT = 'é"\\ \n\0|~ 猫'

# card_id, account, amount, number, flag
ROWS: list[tuple[str, int, float | None, int, bool]] = [
    ("nan", 1, math.nan, LARGEST, True),
    ("inf", 2, math.inf, SMALLEST, False),
    ("-inf", 3, -math.inf, BEYOND_DOUBLE, True),
    ("zero", -4, -0.0, 0, True),
    ("tiny", LARGEST, 5e-324, -1, True),
    ("huge", SMALLEST, 1.7976931348623157e308, 1, True),
    ("whole", BEYOND_DOUBLE, 1e16, 1, True),
    ("null", 0, None, 1, True),
    ("1", 7, 1.5, 1, True),
    ("true", 8, 2.5, 2, True),
    (ODD_TEXT, 9, 3.5, 3, False),
    ("", 10, 4.5, 4, False),
]
ON_THE_WIRE: dict[str, tuple[bytes, str]] = {
    "nan": (b'"NaN"', "PRESENT"),
    "inf": (b'"Infinity"', "PRESENT"),
    "-inf": (b'"-Infinity"', "PRESENT"),
    "zero": (b"-0.0", "PRESENT"),
    "tiny": (b"5e-324", "PRESENT"),
    "huge": (b"1.7976931348623157e308", "PRESENT"),
    "whole": (b"1e16", "PRESENT"),
    "null": (b"null", "NULL_VALUE"),
}
# A request for entities of one view: whatever asks, it gives the value of the first feature, or raises.
Ask = Callable[[str, dict[str, list[Any]]], list[Any]]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("data")
    register(path, TYPED_VIEWS)
    rows = [
        event(card, account=account, amount=amount, merchant=card, number=number, flag=flag, at_us=NOON - SECOND)
        for card, account, amount, number, flag in ROWS
    ]
    write_store(path, rows)
    return path


@pytest.fixture(scope="module")
def url(data_dir: Path) -> Iterator[str]:
    service = FeatureService(data_dir, now_us=lambda: NOON)
    service.refresh(check=True)
    with served(service) as address:
        yield address


def post(url: str, feature: str, entities: dict[str, list[Any]] | str) -> httpx.Response:
    keys = entities if isinstance(entities, str) else json.dumps(entities)
    return httpx.post(f"{url}/get-online-features", content=f'{{"features": ["{feature}"], "entities": {keys}}}')


@pytest.fixture(params=["http", "client", "get", "get --url"])
def ask(request: pytest.FixtureRequest, url: str, data_dir: Path, capsys: pytest.CaptureFixture[str]) -> Ask:
    """The ways to read. The command runs in this process: a new one takes a second to start."""

    def over_http(feature: str, entities: dict[str, list[Any]]) -> list[Any]:
        response = post(url, feature, entities)
        if response.status_code != 200:
            assert response.status_code == 422
            raise MalformedRequestError(json.loads(response.json())["message"])
        return list(response.json()["results"][-1]["values"])

    def with_the_client(feature: str, entities: dict[str, list[Any]]) -> list[Any]:
        with FeatureStoreClient(url) as client:
            answer = client.get_online_features([feature], entities)
        return answer.to_dict()[feature.split(":")[1]]

    def with_get(feature: str, entities: dict[str, list[Any]]) -> list[Any]:
        options = ["--url", url] if request.param == "get --url" else ["--data-dir", str(data_dir)]
        pairs = [f"{name}:={json.dumps(value)}" for name, values in entities.items() for value in values]
        with pytest.raises(SystemExit) as ended:
            main(["get", feature, "--json", *options, *(part for pair in pairs for part in ("-e", pair))])
        if ended.value.code:
            raise MalformedRequestError(str(ended.value.code))
        return list(json.loads(capsys.readouterr().out)["results"][-1]["values"])

    return {"http": over_http, "client": with_the_client}.get(request.param, with_get)


@pytest.mark.parametrize("card", ON_THE_WIRE)
def test_a_float_on_the_wire(url: str, card: str) -> None:
    text, status = ON_THE_WIRE[card]
    response = post(url, "by_text:amount_last", {"card_id": [card]})
    assert b'"values":[' + text + b'],"statuses":["' + status.encode() in response.content


def test_floats_come_back_from_the_client_as_they_were(url: str) -> None:
    with FeatureStoreClient(url) as client:
        answer = client.get_online_features(["by_text:amount_last"], {"card_id": [card for card, *_ in ROWS]})
    values = answer.to_dict()["amount_last"]
    assert [repr(value) for value in values] == [repr(amount) for _, _, amount, *_ in ROWS]
    assert answer.to_arrow()["amount_last"].null_count == 1, "NaN is a value, null is none"


def test_integers_are_exact_to_the_64th_bit(ask: Ask) -> None:
    cards = ["nan", "inf", "-inf"]
    assert ask("by_text:number_last", {"card_id": cards}) == [LARGEST, SMALLEST, BEYOND_DOUBLE]


def test_booleans_are_booleans(ask: Ask) -> None:
    assert ask("by_text:flag_last", {"card_id": ["nan", "inf", "nobody"]}) == [True, False, None]


def test_texts_are_any_unicode(ask: Ask) -> None:
    assert ask("by_text:merchant_last", {"card_id": [ODD_TEXT, ""]}) == [ODD_TEXT, ""]


def test_integer_keys_of_any_size_and_sign_are_found_and_none_is_another(ask: Ask) -> None:
    accounts = [-4, LARGEST, SMALLEST, BEYOND_DOUBLE, BEYOND_DOUBLE - 1, 4, None]
    found = ask("by_number:merchant_last", {"account": accounts})
    assert found == ["zero", "tiny", "huge", "whole", None, None, None]


def test_boolean_keys_are_found(ask: Ask) -> None:
    assert ask("by_flag:number_last", {"flag": [True, False, None]}) == [2, 4, None]


def test_keys_of_several_types_together(ask: Ask) -> None:
    entities = {"flag": [True, True, False], "account": [-4, -4, 9], "card_id": ["zero", "other", ODD_TEXT]}
    assert ask("by_all:number_last", entities) == [0, None, 3]


@pytest.mark.parametrize(
    ("feature", "column", "value", "told"),
    [
        ("by_text:flag_last", "card_id", 1, "'card_id' is String, but row 0 holds 1"),
        ("by_text:flag_last", "card_id", True, "'card_id' is String, but row 0 holds True"),
        ("by_text:flag_last", "card_id", 2**70, "'card_id' is String, but row 0 holds a larger integer"),
        ("by_number:flag_last", "account", "1", "'account' is Int64, but row 0 holds '1'"),
        ("by_number:flag_last", "account", True, "'account' is Int64, but row 0 holds True"),
        ("by_number:flag_last", "account", LARGEST + 1, "has more than 64 bits"),
        ("by_number:flag_last", "account", SMALLEST - 1, "has more than 64 bits"),
        ("by_number:flag_last", "account", 10**4000, "has more than 64 bits"),
        ("by_flag:flag_last", "flag", 1, "'flag' is Boolean, but row 0 holds 1"),
        ("by_flag:flag_last", "flag", "maybe", "'flag'"),
        ("by_text:flag_last", "card_id", ["c1"], "'card_id'"),
        ("by_text:flag_last", "card_id", {"a": 1}, "'card_id'"),
        ("by_number:flag_last", "account", 1.0, "'account'"),
    ],
)
def test_a_key_of_another_type_is_refused_by_name(
    ask: Ask, request: pytest.FixtureRequest, feature: str, column: str, value: object, told: str
) -> None:
    if request.node.callspec.params["ask"] == "get" and value == "1":
        # From the local store `get` knows the key's type, and reads text as a value of it.
        assert ask(feature, {column: [value]}) == [True]
        return
    with pytest.raises(MalformedRequestError) as caught:
        ask(feature, {column: [value]})
    assert told in str(caught.value)


@pytest.mark.parametrize("dtype", [pl.Binary, pl.Date, pl.Datetime("us", "UTC"), pl.Float64, pl.UInt64])
def test_bytes_times_and_floats_can_not_be_keys(dtype: object) -> None:
    with pytest.raises(DefinitionError, match="can't be a key") as caught:
        Entity("card", join_keys={"card_id": dtype})
    assert "pl.String, pl.Int64 or pl.Boolean" in (caught.value.hint or "")


@pytest.mark.parametrize("keys", ['{"account": [1e400]}', '{"account": [NaN]}', '{"account": [%s]}' % ("9" * 5000)])
def test_numbers_that_json_or_64_bits_do_not_hold_are_refused(url: str, keys: str) -> None:
    assert post(url, "by_number:flag_last", keys).status_code == 422


def test_a_text_of_a_key_is_shown_shortened(url: str) -> None:
    response = post(url, "by_number:flag_last", {"account": ["x" * 100_000]})
    assert response.status_code == 422
    assert len(response.content) < 1_000


@pytest.mark.parametrize(
    ("pair", "found"), [("account=-4", "zero"), (f"account={LARGEST}", "tiny"), (f"account={SMALLEST}", "huge")]
)
def test_get_reads_text_as_the_keys_type(data_dir: Path, pair: str, found: str) -> None:
    ended = get(data_dir, "by_number:merchant_last", pair)
    assert json.loads(ended.stdout)["results"][1]["values"] == [found]


@pytest.mark.parametrize(
    ("feature", "pair", "told"),
    [
        ("by_number:flag_last", "account=1.0", "'account' is an integer"),
        ("by_number:flag_last", f"account={LARGEST + 1}", "has more than 64 bits"),
        ("by_number:flag_last", f"account={'9' * 5000}", "'account' is an integer"),
        ("by_flag:flag_last", "flag=1", "'flag' is true or false"),
        ("by_text:flag_last", b"card_id=\xff", "is no UTF-8 text"),
    ],
)
def test_get_refuses_text_that_is_no_value_of_the_keys_type(
    data_dir: Path, feature: str, pair: str | bytes, told: str
) -> None:
    ended = get(data_dir, feature, pair)
    assert (ended.returncode, ended.stdout) == (1, "")
    assert told in ended.stderr
    assert "Traceback" not in ended.stderr


def test_get_shows_people_what_json_has_no_word_for(data_dir: Path) -> None:
    command = [sys.executable, "-m", "featurestore", "get", "by_text:amount_last", "-e", "card_id=nan"]
    ended = subprocess.run([*command, "--data-dir", str(data_dir)], capture_output=True, text=True, cwd=ROOT)
    assert "NaN" in ended.stdout


def get(data_dir: Path, feature: str, pair: str | bytes) -> subprocess.CompletedProcess[str]:
    command: list[str | bytes] = [sys.executable, "-m", "featurestore", "get", feature, "--json", "-e", pair]
    return subprocess.run([*command, "--data-dir", str(data_dir)], capture_output=True, text=True, cwd=ROOT)
