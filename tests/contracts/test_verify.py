"""Contracts held to the example's views: what holds is ok, each thing that does not is named."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from featurestore.contracts.files import load_contracts
from featurestore.contracts.gather import Project, gather
from featurestore.contracts.report import Finding
from featurestore.contracts.verify import verify_contracts
from tests.cli.test_check import CONTRACT, EVENTS, write_events

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def project() -> Project:
    return gather(["pipelines/transactions.py"], ROOT)


def verified(project: Project, folder: Path, contract: str) -> list[Finding]:
    path = folder / "cards.yaml"
    path.write_text(contract)
    write_events(folder / "events.jsonl", EVENTS)
    return list(verify_contracts(project, load_contracts(path, path.name)))


def test_a_contract_that_holds_is_ok(project: Project, tmp_path: Path):
    assert [one.level for one in verified(project, tmp_path, CONTRACT)] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("old", "new", "subject", "says"),
    [
        ("dtype: Int64", "dtype: Float64", ":count_10m", "it is Int64, promised is Float64"),
        ("max: 500", "max: 1", ":count_10m", "the largest value is 2"),
        ("count_10m: 2,", "count_10m: 3,", ", example 1", "count_10m of card_id=c1 at .* is 2, expected 3"),
        ("count_10m: 1}", "count_10m: 2}", ", example 2", "at 2026-01-01T00:02:00Z is 1, expected 2"),
        ("count_10m: null", "count_10m: 0", ", example 4", "is None, expected 0"),
        ("view: card_activity", "view: card_activty", "", "no module defines a view 'card_activty'"),
        ("  count_10m: {dty", "  count_10: {dty", "", "view 'card_activity' has no feature 'count_10'"),
        ("card_id: nobody", "card: nobody", "", "the entity has card"),
        ("events: events", "events: none", "", "there is no file"),
        ("source: transactions", "source: payments", "", "no module defines a source 'payments'"),
        ("  amount: {min", "  amout: {min", "", "source 'transactions' has no column 'amout'"),
    ],
)
def test_a_broken_contract_is_named(old: str, new: str, subject: str, says: str, project: Project, tmp_path: Path):
    assert CONTRACT.count(old) == 1
    found = verified(project, tmp_path, CONTRACT.replace(old, new))
    (broken,) = [one for one in found if one.level != "ok"]
    assert broken.level == "failed"
    assert broken.subject.startswith("cards.yaml")
    assert broken.subject.endswith(subject)
    assert re.search(says, broken.message)


def test_events_that_are_dead_letters_are_no_golden_events(project: Project, tmp_path: Path):
    path = tmp_path / "cards.yaml"
    path.write_text(CONTRACT)
    write_events(tmp_path / "events.jsonl", [*EVENTS, {**EVENTS[0], "amount": "ten"}])
    found = [one for one in verify_contracts(project, load_contracts(path, path.name)) if one.level == "failed"]
    assert len(found) == 1
    assert "1 events are dead letters (wrong_type), the first is number 5" in found[0].message


def test_a_python_contract_is_held_to_as_well(project: Project, tmp_path: Path):
    path = tmp_path / "cards.py"
    path.write_text(
        "from featurestore.contracts import FeatureContract, ViewContract\n"
        "cards = ViewContract(view='card_activity', features={'count_10m': FeatureContract(dtype='String')})\n"
    )
    (found,) = verify_contracts(project, load_contracts(path, path.name))
    assert (found.level, found.message) == ("failed", "it is Int64, promised is String")
