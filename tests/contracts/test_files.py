"""Contract files: what is misspelt is told with the file and the line."""

from __future__ import annotations

from pathlib import Path

import pytest

from featurestore.contracts import FeatureContract, SourceContract, ViewContract
from featurestore.contracts.files import contract_files, load_contracts
from featurestore.errors import ContractError

GOOD = """\
view: card_activity
max_age: 15m
features:
  count_10m: {dtype: Int64, min: 0, max_null_rate: 0}
events: events.jsonl
examples:
  - entity: {card_id: c1}
    as_of: 2026-01-01T00:02:00Z
    values: {count_10m: 1}
---
source: transactions
columns:
  amount: {min: 0}
"""


def write(folder: Path, text: str, name: str = "a.yaml") -> Path:
    path = folder / name
    path.write_text(text)
    return path


def test_a_file_may_hold_several_contracts(tmp_path: Path):
    view, source = (one.contract for one in load_contracts(write(tmp_path, GOOD), "a.yaml"))
    assert isinstance(view, ViewContract)
    assert view.features["count_10m"] == FeatureContract(dtype="Int64", min=0, max_null_rate=0)
    assert isinstance(source, SourceContract)
    assert source.max_dead_letter_rate == 0


def test_contracts_may_be_python(tmp_path: Path):
    text = "from featurestore.contracts import ViewContract\ncards = ViewContract(view='cards')\n"
    (loaded,) = load_contracts(write(tmp_path, text, "a.py"), "a.py")
    assert loaded.contract == ViewContract(view="cards")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (GOOD.replace("max_age", "max_ago"), r"a.yaml, line 2: max_ago: there is no such key\nHint: .*'max_age'"),
        (GOOD.replace("min: 0, max_n", "mim: 0, max_n"), r"line 4: features.count_10m.mim: .*\nHint: .*'min'"),
        (GOOD.replace("Int64", "Int32"), "line 4: features.count_10m.dtype: .*'Int64'"),
        (GOOD.replace("00:02:00Z", "00:02:00"), "line 8: examples.0.as_of: .*timezone"),
        (GOOD.replace("15m", "15 minutes"), "line 2: max_age: "),
        (GOOD.replace("max_null_rate: 0", "max_null_rate: 5"), "line 4: .*max_null_rate: .*less than or equal to 1"),
        (GOOD.replace("{min: 0}", "{min: 3, max: 2}"), "line 13: columns.amount: .*min 3 is above max 2"),
        (GOOD.replace("events: events.jsonl", ""), "line 1: view: .*examples need `events`"),
        (GOOD.replace("view: card_activity", ""), "line 2: a contract is of one view or of one source"),
        (GOOD + "columns: {}\n", "line 14: 'columns' is there twice"),
        ("view: [", "line 1: no YAML"),
        ("", "has no contract"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(text: str, says: str, tmp_path: Path):
    with pytest.raises(ContractError, match=says):
        load_contracts(write(tmp_path, text), "a.yaml")


def test_a_python_contract_that_fails_is_named(tmp_path: Path):
    with pytest.raises(ContractError, match=r"a.py: ZeroDivisionError"):
        load_contracts(write(tmp_path, "1 / 0", "a.py"), "a.py")


def test_all_contracts_of_a_project_are_found(tmp_path: Path):
    (tmp_path / "contracts" / "cards").mkdir(parents=True)
    names = ["a.yaml", "b.py", "cards/c.yml", "events.jsonl"]
    for name in names:
        (tmp_path / "contracts" / name).touch()
    assert contract_files(tmp_path) == [tmp_path / "contracts" / name for name in names[:3]]
