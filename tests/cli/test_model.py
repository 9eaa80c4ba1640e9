"""`featurestore model` as people and programs see it, and models at the end of `featurestore lineage`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from featurestore.cli.init import write_project
from featurestore.definitions.specs import FeatureServiceSpec
from featurestore.registry import Registry, registry_file
from featurestore.training.manifest import Manifest, SpineMark, ViewMark
from tests.cli.support import MODULE, answer, command
from tests.cli.test_tables import COLUMNS, on_a_terminal

SERVICES = """
from featurestore import FeatureService
from pipelines.transactions import card_activity, merchant_activity

fraud_v3 = FeatureService(
    "fraud_v3",
    features=[card_activity[["count_1h", "amount_eur_sum_24h"]], merchant_activity[["count"]]],
    owner="risk@example.com",
)
cards = FeatureService("cards", features=[card_activity[["count_1h"]]], owner="risk@example.com")
"""


@pytest.fixture(scope="module")
def applied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model") / "project"
    write_project(folder)
    (folder / "pipelines" / "services.py").write_text(SERVICES)
    done = command(folder, "apply", "pipelines/services.py")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture
def project(applied: Path, tmp_path: Path) -> Path:
    """A copy for each test."""
    return shutil.copytree(applied, tmp_path / "project")


def service_of(project: Path, name: str = "fraud_v3") -> FeatureServiceSpec:
    registry = Registry.open(registry_file(project / "data"), create=False)
    try:
        return registry.feature_services()[name].spec
    finally:
        registry.close()


def write_manifest(project: Path, name: str, features: tuple[str, ...], service: FeatureServiceSpec | None) -> None:
    """As `featurestore training-set` writes it, of two rows."""
    registry = Registry.open(registry_file(project / "data"), create=False)
    views = tuple(ViewMark(view.name, view.version, view.fingerprint, 1, view.spec) for view in registry.views())
    registry.close()
    manifest = Manifest(
        library_version="0",
        created_at="2026-11-23T00:00:00Z",
        features=features,
        full_feature_names=False,
        event_timestamp="event_timestamp",
        knowledge="event",
        knowledge_time=None,
        spine=SpineMark(2, "ab" * 32),
        views=views,
        archive={},
        feature_service=service,
    )
    (project / name).write_bytes(msgspec.json.encode(manifest))


def change_view(project: Path) -> None:
    """Card activity computes something else; the service goes on with what it pins."""
    module = project / MODULE
    module.write_text(module.read_text().replace('pl.col("status") == "approved"', 'pl.col("status") != "declined"'))
    done = command(project, "apply", MODULE, "--promote")
    assert done.returncode == 0, done.stderr


def test_a_model_is_linked_listed_and_shown(project: Path) -> None:
    spec = service_of(project)
    write_manifest(project, "t.parquet.manifest.json", spec.references, spec)
    link = ("model", "link", "fraud", "3", "--service", "fraud_v3", "--training-set", "t.parquet.manifest.json")
    done = command(project, *link, "--uri", "models:/fraud/3", "--run-id", "abc")
    assert done.returncode == 0, done.stderr
    assert done.stdout == "model fraud version 3 reads 3 features of fraud_v3: card_activity@1, merchant_activity@1\n"
    assert done.stderr == ""
    assert command(project, "model", "link", "cards", "2026-11", "--service", "cards").returncode == 0

    listed = command(project, "model", "ls").stdout
    assert "fraud" in listed
    assert "card_activity@1 merchant_activity@1" in listed

    def found(*asked: str) -> list[str]:
        return [f"{one['model']}/{one['version']}" for one in answer(project, "model", "ls", *asked)["models"]]

    assert found() == ["cards/2026-11", "fraud/3"]
    assert found("--service", "fraud_v3") == ["fraud/3"]
    assert found("--view", "merchant_activity@1") == ["fraud/3"]
    assert found("--feature", "card_activity:count_1h") == ["cards/2026-11", "fraud/3"]
    assert found("--view", "card_activity@2") == []
    assert command(project, "model", "ls", "--view", "card_activity@2").stdout == "no model is linked that reads it\n"

    shown = command(project, "model", "show", "fraud", "3")
    assert shown.returncode == 0, shown.stderr
    for part in (
        "fraud_v3, asks for the same now",
        "(unchanged)",
        "models:/fraud/3",
        "card_activity:count_1h",
        "served",
    ):
        assert part in shown.stdout
    assert "read them: featurestore get --service fraud_v3 -e KEY=VALUE" in shown.stdout
    document = answer(project, "model", "show", "fraud", "3")
    assert document["features"] == [
        "card_activity@1:count_1h",
        "card_activity@1:amount_eur_sum_24h",
        "merchant_activity@1:count",
    ]
    assert document["run_id"] == "abc"
    assert document["now"]["readable"] is True


def test_it_is_told_how_to_read_a_model_s_features_when_its_service_has_moved_on(project: Path) -> None:
    assert command(project, "model", "link", "fraud", "3", "--service", "fraud_v3").returncode == 0
    change_view(project)
    assert answer(project, "model", "show", "fraud", "3")["now"]["service"] == "same"
    done = command(project, "promote", "card_activity@2", "--service", "fraud_v3")
    assert done.returncode == 0, done.stderr
    shown = command(project, "model", "show", "fraud", "3").stdout
    assert "fraud_v3, reads other versions or features now" in shown
    assert (
        "featurestore get card_activity@1:count_1h card_activity@1:amount_eur_sum_24h merchant_activity@1:co" in shown
    )
    assert "previous" in shown

    assert command(project, "promote", "card_activity@2", "--service", "cards").returncode == 0
    done = command(project, "retire", "card_activity@1", "--yes")
    assert done.returncode == 0, done.stderr
    shown = command(project, "model", "show", "fraud", "3").stdout
    assert "card_activity@1 is not computed: see featurestore versions card_activity" in shown
    assert "read them" not in shown
    document = answer(project, "model", "show", "fraud", "3")
    assert (document["now"]["readable"], document["now"]["read_with"]) == (False, None)


def test_with_a_training_set_the_versions_are_those_that_it_was_made_with(project: Path) -> None:
    spec = service_of(project)
    write_manifest(project, "t.parquet.manifest.json", spec.references, spec)
    change_view(project)
    for service in ("fraud_v3", "cards"):
        assert command(project, "promote", "card_activity@2", "--service", service).returncode == 0
    link = ("model", "link", "fraud", "3", "--service", "fraud_v3")
    done = command(project, *link, "--training-set", "t.parquet.manifest.json")
    assert done.returncode == 0, done.stderr
    assert "card_activity@1" in done.stdout
    assert "Warning: feature service fraud_v3 gives other values by now" in done.stderr
    (project / "t.parquet.manifest.json").write_text("{}")
    assert answer(project, "model", "show", "fraud", "3")["training_set_state"] == "changed"
    (project / "t.parquet.manifest.json").unlink()
    assert answer(project, "model", "show", "fraud", "3")["training_set_state"] == "missing"


def test_wrong_links_and_questions_are_told_with_a_way_out(project: Path) -> None:
    write_manifest(project, "other.json", ("card_activity:count_10m",), None)
    assert command(project, "model", "ls").stdout == "no model is linked yet\n"
    assert command(project, "model", "link", "fraud", "3", "--service", "fraud_v3").returncode == 0
    for arguments, says in (
        (("link", "fraud", "3", "--service", "cards"), "reads feature service 'fraud_v3', not 'cards'"),
        (("link", "fraud", "4", "--service", "fraud_v4"), "did you mean 'fraud_v3'"),
        (("link", "fraud", "4", "--service", "fraud_v3", "--training-set", "other.json"), "other features than"),
        (("link", "fraud", "4", "--service", "fraud_v3", "--training-set", "nowhere.json"), "can't be read"),
        (("show", "fraud", "9"), "linked are 3"),
        (("ls", "--view", "card_activty"), "did you mean card_activity"),
        (("ls", "--feature", "count_1h"), "write it VIEW:count_1h"),
        (("ls", "--feature", "card_activity:cuont_1h"), "did you mean 'count_1h'"),
    ):
        done = command(project, "model", *arguments)
        assert done.returncode == 1, arguments
        assert says in done.stderr, done.stderr
        assert done.stdout == ""


def test_every_name_is_whole_on_a_terminal_of_80_columns(project: Path) -> None:
    spec = service_of(project)
    write_manifest(project, "a_training_set_of_november.parquet.manifest.json", spec.references, spec)
    manifest = "a_training_set_of_november.parquet.manifest.json"
    link = ("model", "link", "card-fraud-scorer", "2026-11-23", "--service", "fraud_v3", "--training-set", manifest)
    assert command(project, *link).returncode == 0
    listed = on_a_terminal(project, "model", "ls")
    shown = on_a_terminal(project, "model", "show", "card-fraud-scorer", "2026-11-23")
    for text, names in (
        (listed, ("card-fraud-scorer", "fraud_v3", "card_activity@1", "merchant_activity@1")),
        (shown, ("card_activity:amount_eur_sum_24h", "merchant_activity:count", "fraud_v3")),
    ):
        assert max(len(line.rstrip("\r")) for line in text.splitlines()) <= COLUMNS
        for name in names:
            assert name in text


def test_lineage_ends_with_the_models(project: Path) -> None:
    assert command(project, "model", "link", "fraud", "3", "--service", "fraud_v3").returncode == 0
    found = answer(project, "lineage", "transactions.fx_rate", "--downstream")
    reached = {(edge["target"]["kind"], edge["target"]["name"]) for edge in found["downstream"]}
    assert {("service", "fraud_v3"), ("model", "fraud/3")} < reached
    assert ("service", "cards") not in reached, "counts need no exchange rate"
    tree = command(project, "lineage", "card_activity", "--downstream").stdout
    assert "feature card_activity:amount_eur_sum_24h" in tree
    assert "service fraud_v3" in tree
    assert "model fraud/3" in tree
    above = command(project, "lineage", "fraud/3", "--upstream").stdout
    for part in ("service fraud_v3", "feature merchant_activity:count", "column transactions.status (where)", "topic"):
        assert part in above
    drawn = command(project, "lineage", "fraud/3", "--mermaid").stdout
    assert '["model fraud/3"]' in drawn
    assert json.loads(command(project, "lineage", "fraud_v3", "--json").stdout)["node"]["kind"] == "service"


def test_a_plan_says_which_services_and_models_the_change_of_a_source_reaches(project: Path) -> None:
    assert command(project, "model", "link", "fraud", "3", "--service", "fraud_v3").returncode == 0
    pipeline = project / MODULE
    pipeline.write_text(pipeline.read_text().replace('allowed_lateness="10m"', 'allowed_lateness="20m"'))
    planned = answer(project, "plan", MODULE)
    assert "fraud_v3" in planned["readers"]["transactions"]["services"]
    assert planned["readers"]["transactions"]["models"] == ["fraud/3"]
    said = " ".join(command(project, "plan", MODULE).stdout.split())
    assert "feature service fraud_v3" in said
    assert "model fraud/3" in said
