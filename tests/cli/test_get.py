"""`featurestore get` on a local store and through a server."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from featurestore.cli.get import parse_entities, typed_entities
from featurestore.errors import MalformedRequestError
from featurestore.serving import FeatureService
from tests.commands import run_command
from tests.serving.support import NOON, ROOT, SECOND, event, register, served, write_store


def get(*arguments: str) -> subprocess.CompletedProcess[str]:
    return run_command(["get", *arguments], ROOT, os.environ, 60)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("data")
    register(path)
    write_store(path, [event("c1", account=5, at_us=NOON - SECOND), event("c2", account=6, at_us=NOON)])
    return path


def test_people_get_a_table_with_status_and_time(data_dir: Path) -> None:
    arguments = ["card_activity:count_10m", "-e", "card_id=c1", "-e", "card_id=nobody", "--as-of", "latest"]
    ended = get(*arguments, "--data-dir", str(data_dir))
    assert ended.returncode == 0, ended.stderr
    lines = [line.split() for line in ended.stdout.splitlines()]
    assert ["c1", "card_activity:count_10m", "1", "PRESENT", "2026-11-23T11:59:59Z"] in lines
    assert ["nobody", "card_activity:count_10m", "–", "NOT_FOUND"] in lines


def test_programs_get_the_servers_document_and_keys_take_their_type(data_dir: Path) -> None:
    arguments = ["account_activity:count_10m", "-e", "account=5", "-e", "region=eu"]
    ended = get(*arguments, "--as-of", "2026-11-23T12:00:00Z", "--json", "--data-dir", str(data_dir))
    assert ended.returncode == 0, ended.stderr
    answer = json.loads(ended.stdout)
    assert answer["metadata"] == {"feature_names": ["account", "region", "count_10m"]}
    assert [column["values"] for column in answer["results"]] == [[5], ["eu"], [1]]


def test_a_server_can_be_asked_instead(data_dir: Path) -> None:
    service = FeatureService(data_dir, clock="event")
    service.refresh(check=True)
    arguments = ["account_activity:count_10m", "-e", "account:=6", "-e", "region=eu", "--json"]
    with served(service) as url:
        ended = get(*arguments, "--url", url)
        wrong = get("account_activity:count_10m", "-e", "account=6", "-e", "region=eu", "--url", url)
    assert json.loads(ended.stdout)["results"][2]["values"] == [1]
    assert wrong.returncode == 1
    assert "'account' is Int64" in wrong.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["card_activiti:count_10m", "-e", "card_id=c1"], "did you mean 'card_activity'"),
        (["card_activity:count_10m", "-e", "card=c1"], "entity column 'card_id' is missing"),
        (["card_activity:count_10m", "-e", "card_id"], "is not KEY=VALUE"),
        (["account_activity:count_10m", "-e", "account=five", "-e", "region=eu"], "'account' is an integer"),
        (["card_activity:count_10m", "-e", "card_id=c1", "--as-of", "noon"], "as_of: 'noon'"),
    ],
)
def test_a_mistake_is_told_on_stderr(data_dir: Path, arguments: list[str], told: str) -> None:
    ended = get(*arguments, "--data-dir", str(data_dir))
    assert (ended.returncode, ended.stdout) == (1, "")
    assert told in ended.stderr


def test_a_missing_data_dir_is_told(tmp_path: Path) -> None:
    ended = get("v:f", "-e", "k=1", "--data-dir", str(tmp_path / "nothing"))
    assert ended.returncode == 1
    assert "there is no registry" in ended.stderr
    assert "featurestore apply" in ended.stderr


def test_pairs_become_columns_in_their_order() -> None:
    columns = parse_entities(["a=1", "b:=2", "a=x=y", "b:=null"])
    assert columns == {"a": ["1", "x=y"], "b": [2, None]}
    assert typed_entities({"n": ["-7"], "flag": ["true"], "t": ["7"]}, {"n": "Int64", "flag": "Boolean"}) == {
        "n": [-7],
        "flag": [True],
        "t": ["7"],
    }


@pytest.mark.parametrize("pair", ["=1", "a", "a:=x"])
def test_a_pair_that_is_none_is_refused(pair: str) -> None:
    with pytest.raises(MalformedRequestError, match="-e"):
        parse_entities([pair])
