"""`featurestore lineage` and what a plan says of a source's change, as people and programs see them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from featurestore.cli.init import write_project
from tests.cli.support import MODULE, answer, command


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lineage") / "project"
    write_project(folder)
    assert command(folder, "apply", MODULE).returncode == 0
    return folder


def test_a_feature_shows_what_it_is_made_from(project: Path):
    shown = command(project, "lineage", "merchant_activity:amount_eur_sum_1h")
    assert shown.returncode == 0, shown.stderr
    for line in ("column transactions.fx_rate (value)", "column transactions.status (where)", "topic transactions"):
        assert line in shown.stdout
    assert "currency" not in shown.stdout


def test_a_column_reaches_what_reads_it(project: Path):
    found = answer(project, "lineage", "transactions.fx_rate", "--downstream")
    assert "upstream" not in found
    reached = {edge["target"]["name"] for edge in found["downstream"]}
    assert {"card_activity", "merchant_activity", "card_activity:amount_eur_sum_1h"} < reached
    assert "card_activity:count_1h" not in reached
    drawn = command(project, "lineage", "transactions.fx_rate", "--mermaid").stdout
    assert drawn.startswith("flowchart LR")
    assert "-->|value|" in drawn


def test_what_nobody_knows_is_told(project: Path):
    done = command(project, "lineage", "nothing")
    assert done.returncode == 1
    assert "nothing is called 'nothing'" in done.stderr


def test_a_plan_says_what_the_change_of_a_source_reaches(project: Path):
    module = project / MODULE
    text = module.read_text()
    module.write_text(text.replace('allowed_lateness="10m"', 'allowed_lateness="20m"'))
    try:
        told = command(project, "plan", MODULE)
        planned = json.loads(command(project, "plan", MODULE, "--json").stdout)
    finally:
        module.write_text(text)
    assert "the change of source transactions reaches" in told.stdout
    assert "merchant_activity: amount_eur_sum_1h" in told.stdout
    assert "card_activity:count_1h" in planned["reached"]["transactions"]
    assert answer(project, "plan", MODULE)["reached"] == {}
