"""Definitions found in pipeline modules."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from featurestore.definitions.discover import load_definitions
from featurestore.definitions.resolve import resolve_all
from featurestore.errors import DefinitionError

ROOT = Path(__file__).resolve().parents[2]
COMMON = """
import polars as pl
from featurestore import Entity, KafkaSource, StreamFeatureView, agg

card = Entity("card", join_keys={"card_id": pl.String})
payments = KafkaSource("payments", topic="payments", schema="p.avsc", event_time="ts")
"""
VIEW = 'v = StreamFeatureView("%s", source=payments, entities=[card], features=[agg.count()])\n'


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Path]:
    """A folder with an empty package `defs_of_test`; what is imported from it is forgotten."""
    (tmp_path / "defs_of_test").mkdir()
    (tmp_path / "defs_of_test" / "__init__.py").touch()
    path = list(sys.path)
    yield tmp_path
    sys.path[:] = path
    for name in [name for name in sys.modules if name.split(".")[0] == "defs_of_test"]:
        del sys.modules[name]


def write(project: Path, name: str, text: str) -> None:
    (project / "defs_of_test" / f"{name}.py").write_text(text)


@pytest.mark.parametrize("module", ["defs_of_test.a", "defs_of_test/a.py"])
def test_a_module_is_named_by_dots_or_path(project: Path, module: str) -> None:
    write(project, "a", COMMON + VIEW % "activity")
    found = load_definitions([module], project)
    assert (list(found.entities), list(found.sources), list(found.views)) == (
        ["card"],
        ["payments"],
        ["activity"],
    )


def test_modules_may_share_definitions(project: Path) -> None:
    write(project, "a", COMMON + VIEW % "first")
    shared = "from defs_of_test.a import agg, card, payments, StreamFeatureView, v as other\n"
    write(project, "b", shared + VIEW % "second")
    found = load_definitions(["defs_of_test.a", "defs_of_test.b"], project)
    assert sorted(found.views) == ["first", "second"]


def test_two_views_of_one_name_are_refused(project: Path) -> None:
    write(project, "a", COMMON + VIEW % "activity")
    write(project, "b", COMMON + VIEW % "activity")
    with pytest.raises(DefinitionError, match=r"module defs_of_test\.b: view 'activity'"):
        load_definitions(["defs_of_test.a", "defs_of_test.b"], project)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (COMMON, "defines no feature view"),
        ("import polars\n\nraise ValueError('oops')\n", r"defs_of_test\.a, line 3: ValueError: oops"),
        ("x = = 1\n", r"defs_of_test\.a, line 1: SyntaxError"),
        ("import no_such_library\n", "imports no_such_library"),
        ("\nimport no_such_library\n", r"defs_of_test\.a, line 2 imports no_such_library"),
        (COMMON + VIEW % "my view", r"defs_of_test\.a, line 7: view: 'my view' is not a valid name"),
    ],
)
def test_a_module_that_can_not_be_used_is_named(project: Path, text: str, message: str) -> None:
    write(project, "a", text)
    with pytest.raises(DefinitionError, match=message):
        load_definitions(["defs_of_test.a"], project)


@pytest.mark.parametrize("module", ["defs_of_test.absent", "defs_of_test/absent.py", "absent"])
def test_a_module_that_does_not_exist_is_named(project: Path, module: str) -> None:
    with pytest.raises(DefinitionError, match="absent"):
        load_definitions([module], project)


def test_a_file_with_the_name_of_another_module_is_told(project: Path) -> None:
    # Importing it would give Python's own module, which defines no view.
    (project / "json.py").write_text(COMMON + VIEW % "activity")
    with pytest.raises(DefinitionError, match=r"module json\.py: importing 'json' gives another module") as caught:
        load_definitions(["json.py"], project)
    assert "rename" in (caught.value.hint or "")


def test_a_source_that_only_a_view_holds_counts(project: Path) -> None:
    text = COMMON + VIEW % "activity" + "views = {'other': v}\ndel payments, card\n"
    write(project, "a", text)
    found = load_definitions(["defs_of_test.a"], project)
    assert (list(found.sources), list(found.entities)) == (["payments"], ["card"])


def test_two_different_sources_of_one_name_are_refused(project: Path) -> None:
    write(project, "a", COMMON + VIEW % "first")
    write(project, "b", COMMON.replace('topic="payments"', 'topic="other"') + VIEW % "second")
    with pytest.raises(DefinitionError, match="source 'payments' is defined twice, differently"):
        load_definitions(["defs_of_test.a", "defs_of_test.b"], project)


def test_the_example_resolves() -> None:
    resolved = resolve_all(load_definitions(["pipelines/transactions.py"], ROOT), ROOT)
    assert sorted(resolved.views) == ["card_activity", "merchant_activity"]
    names = [feature.name for feature in resolved.views["card_activity"].features]
    assert {"count_10m", "count_24h", "count_tumbling_1m", "biggest_purchase_24h", "merchant_id_last"} <= set(names)
