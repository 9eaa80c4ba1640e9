"""`featurestore check` in a project as `init` writes it: what is right passes, what is wrong fails by its name."""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import fastavro
import polars as pl
import pytest

from featurestore.examples import write_project
from tests.cli.support import MODULE, command

CONTRACT = """\
view: card_activity
features:
  count_10m: {dtype: Int64, min: 0, max: 500, max_null_rate: 0}
  amount_eur_sum_1h: {dtype: Float64, min: 0}
events: events.jsonl
examples:
  - entity: {card_id: c1}
    values: {count_10m: 2, amount_eur_sum_1h: 50.5, merchant_id_last: m2}
  - entity: {card_id: c1}
    as_of: 2026-01-01T00:02:00Z
    values: {count_10m: 1}
  - entity: {card_id: c2}
    values: {count_10m: 1, merchant_id_last: m3}
  - entity: {card_id: nobody}
    values: {count_10m: null}
---
source: transactions
columns:
  amount: {min: 0, max: 10000}
max_dead_letter_rate: 0.5
"""


def event(number: int, **changes: Any) -> dict[str, Any]:
    start = {"transaction_id": f"t{number}", "card_id": "c1", "merchant_id": f"m{number}", "currency": "EUR"}
    return {**start, "amount": 10.5, "status": "approved", "ts": 1_767_225_600_000 + number * 100_000, **changes}


EVENTS = [event(1), event(2, amount=20, fx_rate=2.0), event(3, card_id="c2"), event(2, status="declined")]


def write_events(path: Path, events: list[dict[str, Any]]) -> None:
    path.write_text("".join(f"{json.dumps(one)}\n" for one in events))


def git(project: Path, *arguments: str) -> None:
    identity = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@example.com"}
    identity |= {"GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@example.com"}
    subprocess.run(["git", *arguments], cwd=project, env={**os.environ, **identity}, check=True, capture_output=True)


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "project"
    write_project(folder)
    (folder / "contracts").mkdir()
    (folder / "contracts" / "cards.yaml").write_text(CONTRACT)
    write_events(folder / "contracts" / "events.jsonl", EVENTS)
    return folder


def in_git(project: Path) -> None:
    git(project, "init", "-q")
    git(project, "add", "-A")
    git(project, "commit", "-qm", "all is well")


def findings(project: Path, *arguments: str, fails: bool) -> list[dict[str, str]]:
    done = command(project, "check", *arguments, "--json")
    assert done.returncode == int(fails), done.stdout + done.stderr
    document = json.loads(done.stdout)
    assert bool(document["failed"]) is fails
    found: list[dict[str, str]] = document["findings"]
    return found


def failed(project: Path, *arguments: str) -> list[tuple[str, str, str]]:
    """(section, subject, message) of what fails the check."""
    found = findings(project, *arguments, fails=True)
    return [(one["section"], one["subject"], one["message"]) for one in found if one["level"] == "failed"]


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_a_project_that_is_right_passes_and_writes_nothing(project: Path):
    before = {path: path.stat().st_mtime_ns for path in project.rglob("*") if "__pycache__" not in str(path)}
    found = findings(project, "--sample", "contracts/events.jsonl", fails=False)
    assert {one["section"] for one in found} == {"definitions", "owners", "schemas", "samples", "contracts"}
    assert [one["section"] for one in found if one["level"] == "skipped"] == ["schemas"]
    after = {path: path.stat().st_mtime_ns for path in project.rglob("*") if "__pycache__" not in str(path)}
    assert after == before
    assert command(project, "check").stdout.splitlines()[-1].endswith("0 failed")


def test_every_module_and_definition_that_is_wrong_is_named(project: Path):
    (project / "pipelines" / "broken.py").write_text("import nothing_of_that_name\n")
    (project / "pipelines" / "helper.py").write_text("x = 1\n")
    edit(project / "pipelines" / "transactions.py", 'agg.first("merchant_id")', 'agg.first("merchant")')
    edit(project / "pipelines" / "transactions.py", "[merchant],", "[Entity('merchant', {'merchant_id': pl.Int64})],")
    found = failed(project)
    assert [subject for _, subject, _ in found if subject.startswith(("pipelines", "view"))] == [
        "pipelines/broken.py",
        "view card_activity",
        "view merchant_activity",
    ]
    assert failed(project, "pipelines/helper.py")[0][1:] == (
        "pipelines/helper.py",
        "module pipelines/helper.py defines no feature view",
    )


def test_a_view_without_an_owner_fails_unless_none_is_required(project: Path):
    edit(
        project / "pipelines" / "transactions.py",
        'owner="risk@example.com",\n    description="How busy',
        'description="',
    )
    assert failed(project) == [("owners", "view merchant_activity", "it has no owner")]
    findings(project, "--no-require-owner", fails=False)


def test_batch_views_are_checked_against_their_files(project: Path):
    module = project / "pipelines" / "limits.py"
    module.write_text(
        "from featurestore import BatchFeatureView, FileSource, Field\n"
        "from pipelines.transactions import card\n"
        "import polars as pl\n"
        "limits = BatchFeatureView('limits', source=FileSource('limits.parquet', event_time='at'), entities=[card],\n"
        "    features=[Field('daily', pl.Int64)], owner='risk@example.com')\n"
    )
    found = findings(project, fails=False)
    assert [one["subject"] for one in found if one["level"] == "warning"] == ["view limits"]
    pl.DataFrame({"card_id": ["c1"], "at": [datetime(2026, 1, 1, tzinfo=timezone.utc)]}).write_parquet(
        project / "limits.parquet"
    )
    ((section, subject, message),) = failed(project)
    assert (section, subject) == ("definitions", "view limits")
    assert "daily" in message


@pytest.mark.parametrize("against", ["HEAD", "registry"])
def test_schema_and_features_are_compared_with_what_they_were(project: Path, against: str):
    if against == "HEAD":
        in_git(project)
    else:
        assert command(project, "apply", MODULE).returncode == 0
    findings(project, "--against", against, fails=False)
    pipeline, schema = project / "pipelines" / "transactions.py", project / "schemas" / "transaction.avsc"
    edit(schema, '"fields": [', '"fields": [{"name": "channel", "type": "string"},')
    edit(schema, "timestamp-millis", "timestamp-micros")
    edit(pipeline, 'agg.mean("amount_eur", over=["1h", "24h"])', 'agg.mean("amount_eur", over="1h")')
    edit(pipeline, 'agg.last("merchant_id")', 'agg.last("amount").alias("merchant_id_last")')
    (project / "contracts" / "cards.yaml").unlink()
    found = {(section, subject): message for section, subject, message in failed(project, "--against", against)}
    assert {key for key in found if key[0] == "features"} == {
        ("features", "card_activity:amount_eur_mean_24h"),
        ("features", "card_activity:merchant_id_last"),
    }
    assert found["features", "card_activity:merchant_id_last"] == "it was String and is Float64"
    messages = [message for section, _, message in failed(project, "--against", against) if section == "schemas"]
    assert len(messages) == 2
    assert "field 'ts'" in messages[0]
    assert "unit_mismatch" in messages[0]
    assert "field 'channel'" in messages[1]
    assert "missing_field" in messages[1]
    accepted = ["transactions.ts", "transactions.channel", "card_activity"]
    meant = [word for name in accepted for word in ("--accept", name)]
    assert sum(one["level"] == "warning" for one in findings(project, "--against", against, *meant, fails=False)) == 4


def test_a_source_says_how_its_schema_may_change(project: Path):
    in_git(project)
    pipeline, schema = project / "pipelines" / "transactions.py", project / "schemas" / "transaction.avsc"
    edit(schema, '{"name": "currency", "type": "string", "doc": "ISO 4217."},', "")
    findings(project, "--against", "HEAD", fails=False)
    edit(pipeline, 'format="json",', 'format="json",\n    compatibility="full",')
    ((section, _, message),) = failed(project, "--against", "HEAD")
    assert section == "schemas"
    assert "field 'currency'" in message
    assert "not forward compatible" in message


def test_avro_values_are_judged_by_avros_rules(project: Path):
    pipeline, schema = project / "pipelines" / "transactions.py", project / "schemas" / "transaction.avsc"
    edit(pipeline, 'format="json",', 'format="avro",')
    in_git(project)
    # Nullable is enough where values are JSON, not where they are Avro.
    edit(schema, '"fields": [', '"fields": [{"name": "channel", "type": ["null", "string"]},')
    ((_, _, message),) = failed(project, "--against", "HEAD")
    assert "field 'channel'" in message
    assert "reader_field_missing_default_value" in message


def test_a_view_that_is_gone_fails(project: Path):
    in_git(project)
    (project / "pipelines" / "transactions.py").write_text(
        (project / "pipelines" / "transactions.py").read_text().split("merchant_activity =")[0]
    )
    ((section, subject, _),) = failed(project, "--against", "HEAD")
    assert (section, subject) == ("features", "view merchant_activity")


def test_a_project_may_lie_below_the_top_of_its_repository(project: Path):
    git(project.parent, "init", "-q")
    git(project.parent, "add", "-A")
    git(project.parent, "commit", "-qm", "all is well")
    found = findings(project, "--against", "HEAD", fails=False)
    assert [one["message"] for one in found if one["section"] == "schemas"] == ["backward compatible with git HEAD"]


def test_what_is_new_is_compared_with_nothing(project: Path):
    (project / "README.md").write_text("nothing yet")
    git(project, "init", "-q")
    git(project, "add", "README.md")
    git(project, "commit", "-qm", "nothing yet")
    for modules in ((), (MODULE,)):
        found = findings(project, *modules, "--against", "HEAD", fails=False)
        (schema,) = [one for one in found if one["section"] == "schemas"]
        assert schema["message"] == "it is new: there is none in git HEAD"


def test_a_revision_that_is_not_there_is_told(project: Path):
    in_git(project)
    ((section, subject, message),) = failed(project, "--against", "no-such-branch")
    assert (section, subject) == ("schemas", "no-such-branch")
    assert "no-such-branch" in message


def test_a_sample_tells_its_dead_letters_nulls_and_order(project: Path):
    late = event(0, ts=1_767_225_600_000 - 3_600_000)
    bad = [event(5, amount="ten"), {**event(6), "card_id": None}]
    write_events(project / "sample.jsonl", [*EVENTS, late, event(1), *bad])
    found = [one for one in findings(project, "--sample", "sample.jsonl", fails=False) if one["section"] == "samples"]
    told = "\n".join(one["message"] for one in found)
    assert "1 of 8 (12.50%) are dead letters, wrong_type; number 7" in told
    assert "1 of 8 (12.50%) are dead letters, null_field; number 8" in told
    assert "1 of 8 (12.50%) are too late" in told
    assert "5 of 8 are accepted, 2 of them out of order; null: country 100.00%" in told
    write_events(project / "sample.jsonl", [*EVENTS, *bad, *bad, *bad])
    assert [subject for _, subject, _ in failed(project, "--sample", "sample.jsonl")] == [
        "sample.jsonl (transactions)"
    ] * 2
    write_events(project / "sample.jsonl", [event(1, amount=-1)])
    ((_, subject, message),) = failed(project, "--sample", "transactions=sample.jsonl")
    assert subject == "sample.jsonl (transactions), column amount"
    assert message == "the smallest value is -1.0, promised is at least 0"


def test_a_sample_may_be_avro_of_another_version(project: Path):
    schema = json.loads((project / "schemas" / "transaction.avsc").read_text())
    older = {**schema, "fields": [field for field in schema["fields"] if field["name"] != "fx_rate"]}
    with (project / "sample.avro").open("wb") as file:
        fastavro.writer(
            file, fastavro.parse_schema(older), [{**one, "country": None} for one in EVENTS], codec="deflate"
        )
    findings(project, "--sample", "sample.avro", fails=False)
    other = {**schema, "fields": [field for field in schema["fields"] if field["name"] != "card_id"]}
    with (project / "sample.avro").open("wb") as file:
        fastavro.writer(
            file, fastavro.parse_schema(other), [{"fx_rate": 1.0, **one, "country": None} for one in EVENTS]
        )
    assert "schema_mismatch" in failed(project, "--sample", "sample.avro")[0][2]


def test_a_broken_contract_fails(project: Path):
    edit(project / "contracts" / "cards.yaml", "dtype: Int64", "dtyp: Int64")
    ((section, subject, message),) = failed(project)
    assert (section, subject) == ("contracts", "contracts/cards.yaml")
    assert "line 3: features.count_10m.dtyp" in message


def test_golden_values_follow_the_definition(project: Path):
    edit(project / "pipelines" / "transactions.py", 'pl.col("status") == "approved"', 'pl.col("amount") > 15')
    assert {subject.rpartition(", ")[2] for _, subject, _ in failed(project)} == {"example 1", "example 2", "example 3"}


def test_only_contracts_of_the_named_modules_are_held_to(project: Path):
    (project / "contracts" / "other.yaml").write_text("view: of_another_module\n")
    assert len(failed(project)) == 1
    findings(project, MODULE, fails=False)
