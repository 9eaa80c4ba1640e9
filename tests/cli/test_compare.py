"""`featurestore compare`: versions that are computed side by side, over the embedded broker; and its verdict."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from featurestore.cli.version_comparison import VersionComparison, VersionProgress, behind
from featurestore.cli.version_statistics import compare_feature
from featurestore.cli.version_verdict import Thresholds, judge
from featurestore.examples import write_project
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.shard.protocol import Fence, ViewState
from featurestore.sources.embedded import EmbeddedBroker
from tests.cli.support import MODULE, answer, command, run_until_end, send

CARDS = 200
FILTER = 'where=pl.col("status") == "approved",'
LAST = '        agg.last("merchant_id"),\n'
LIFETIME = "lifetime()]),"


def change(project: Path, *replacements: tuple[str, str]) -> None:
    """Change the module, each text where it first stands."""
    text = (project / MODULE).read_text()
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new, 1)
    (project / MODULE).write_text(text)


def compared(project: Path, *arguments: str) -> tuple[int, Any]:
    done = command(project, "compare", *arguments, "--json")
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Views in two versions: merchant_activity@2 has a feature more, card_activity@2 counts what was not approved."""
    folder = tmp_path_factory.mktemp("compare") / "project"
    write_project(folder)
    with EmbeddedBroker(folder / "data") as broker:
        send(broker, TransactionStream(Shape(events=4_000, cards=CARDS)))
        run_until_end(folder)
        change(
            folder,
            (LIFETIME, LIFETIME + '\n        agg.mean("amount_eur", over="30m"),'),
            (FILTER, FILTER.replace("==", "!=")),
            (LAST, ""),
        )
        for arguments in (("apply", MODULE), ("run", MODULE, "--until-end")):
            done = command(folder, *arguments)
            assert done.returncode == 0, done.stderr[-3000:]
        yield folder


def test_a_version_that_computes_the_same_and_more_may_be_promoted(project: Path):
    code, document = compared(project, "merchant_activity@2")
    assert (code, document["verdict"]) == (0, {"answer": "promote", "reasons": []})
    found = document["comparison"]
    assert (found["old"]["version"], found["new"]["version"]) == (1, 2)
    assert (found["added_features"], found["removed_features"]) == (["amount_eur_mean_30m"], [])
    assert (found["only_old"], found["only_new"]) == (0, 0)
    assert found["sampled"] == found["both"] == found["old"]["rows"] == found["new"]["rows"] > 10
    assert {(one["equal_share"], one["psi"]) for one in found["features"]} == {(1.0, 0.0)}
    assert len(found["features"]) == 5
    same = ("newest_event", "watermark", "events", "applied")
    assert [found["old"][name] for name in same] == [found["new"][name] for name in same]
    assert found["new"]["online_bytes"] > found["old"]["online_bytes"] > 0
    assert found["old"]["offline_bytes"] > 0


def test_what_differs_is_told_feature_by_feature(project: Path):
    code, document = compared(project, "card_activity@1", "card_activity@2")
    assert code == 1
    assert document["verdict"]["answer"] == "look first"
    reasons = "\n".join(document["verdict"]["reasons"])
    assert "merchant_id_last" in reasons
    assert "NOT_FOUND rises" in reasons
    assert "PSI above 0.2: " in reasons
    found = document["comparison"]
    assert found["removed_features"] == ["merchant_id_last"]
    assert found["only_old"] > 0
    assert found["old"]["events"] == found["new"]["events"] == found["old"]["applied"] + found["new"]["applied"]
    by_name = {one["feature"]: one for one in found["features"]}
    count = by_name["count_24h"]
    assert count["equal_share"] < 0.5
    assert min(count["psi"], count["ks"]) > 0.2
    assert count["old"]["not_found_rate"] == pytest.approx(found["only_new"] / found["sampled"])
    assert count["new"]["not_found_rate"] == pytest.approx(found["only_old"] / found["sampled"])
    assert by_name["merchant_id_first"]["top_changes"]


def test_the_values_are_those_that_get_reads(project: Path):
    _, document = compared(project, "card_activity@2", "--all")
    found = document["comparison"]
    cards = [f"card_{number:06}" for number in range(CARDS)]
    entities = [part for card in cards for part in ("-e", f"card_id={card}")]
    read = [
        answer(project, "get", f"card_activity@{v}:amount_eur_sum_24h", *entities, "--as-of", found["as_of"])
        for v in (1, 2)
    ]
    values = [[value for value in one["results"][1]["values"] if value is not None] for one in read]
    statuses = [one["results"][1]["statuses"] for one in read]
    known = [any(status != "NOT_FOUND" for status in pair) for pair in zip(*statuses, strict=True)]
    assert sum(known) == found["sampled"]
    (sums,) = [one for one in found["features"] if one["feature"] == "amount_eur_sum_24h"]
    for side, mine in zip(("old", "new"), values, strict=True):
        assert sums[side]["mean"] == pytest.approx(sum(mine) / len(mine))


def test_a_sample_is_the_same_each_time_and_what_is_counted_is_not_sampled(project: Path):
    first, second = (compared(project, "card_activity@2", "--sample", "20")[1]["comparison"] for _ in range(2))
    everyone = compared(project, "card_activity@2", "--all")[1]["comparison"]
    assert first == second
    assert first["sampled"] == 20 < everyone["sampled"]
    assert [first[name] for name in ("both", "only_old", "only_new")] == [
        everyone[name] for name in ("both", "only_old", "only_new")
    ]


def test_people_get_tables_and_thresholds_are_theirs(project: Path):
    done = command(project, "compare", "card_activity@2")
    assert done.returncode == 1, done.stderr
    for text in ("count_24h", "only in version 1: merchant_id_last", "would free", "look first: card_activity@2"):
        assert text in done.stdout
    lenient = ("--max-psi", "100", "--max-null-rise", "1", "--max-not-found-rise", "1")
    reasons = compared(project, "card_activity@2", *lenient)[1]["verdict"]["reasons"]
    assert reasons == ["readers lose merchant_id_last"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["card_activity"], "which version?"),
        (["card_activity@1"], "compared with itself: it is the served one"),
        (["card_activity@9"], "version 9 of view 'card_activity' is not computed"),
        (["card_activity@1", "merchant_activity@1"], "are versions of two views"),
        (["card_activity@2", "--as-of", "yesterday"], "yesterday"),
    ],
)
def test_what_can_not_be_compared_is_refused(arguments: list[str], says: str, project: Path):
    done = command(project, "compare", *arguments)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stdout == ""


def test_a_version_that_no_worker_has_computed_is_not_ready(tmp_path: Path):
    write_project(tmp_path)
    assert command(tmp_path, "apply", MODULE).returncode == 0
    change(tmp_path, (FILTER, ""))
    assert command(tmp_path, "apply", MODULE).returncode == 0
    code, document = compared(tmp_path, "card_activity@2")
    assert (code, document["verdict"]["answer"]) == (1, "not ready")
    assert "has seen no event" in document["verdict"]["reasons"][0]


def progress(version: int, **changed: Any) -> VersionProgress:
    whole = VersionProgress(version, "2026-01-01T00:00:00Z", None, 1_000, 900, 10, 1, 1)
    return msgspec.structs.replace(whole, **changed)


def comparison(**changed: Any) -> VersionComparison:
    known = pl.Series([True] * 100)
    values = pl.Series(range(100))
    same = compare_feature("f", values, values, known, known)
    whole = VersionComparison("v", progress(1), progress(2), 0, 0, "", 100, 0, 0, 100, [same], [], [], [])
    return msgspec.structs.replace(whole, **changed)


THRESHOLDS = Thresholds(behind_us=60_000_000, psi=0.2, null_rise=0.01, not_found_rise=0.01)


@pytest.mark.parametrize(
    ("found", "verdict", "reason"),
    [
        (comparison(), "promote", ""),
        (comparison(behind_us=60_000_000, behind_events=5), "promote", ""),
        (comparison(behind_us=61_000_000, behind_events=5), "not ready", "behind by 5 messages, 61s of event time"),
        (comparison(new=progress(2, newest_event=None)), "not ready", "version 2 has seen no event"),
        (comparison(sampled=0, features=[]), "not ready", "nothing can be compared"),
        (comparison(new=progress(2, events=990)), "promote", ""),
        (comparison(new=progress(2, events=989)), "look first", "has seen 989 events, version 1 1,000"),
        (comparison(removed_features=["a", "b", "c", "d"]), "look first", "readers lose a, b, c and 1 more"),
    ],
)
def test_the_verdict_has_its_reasons(found: VersionComparison, verdict: str, reason: str):
    judged = judge(found, THRESHOLDS)
    assert judged.answer == verdict
    assert reason in "".join(judged.reasons)
    assert bool(judged.reasons) == (verdict != "promote")


@pytest.mark.parametrize(("nulls", "verdict"), [(1, "promote"), (2, "look first")])
def test_nulls_and_unknown_rows_are_counted_in_points_of_the_rows(nulls: int, verdict: str):
    values, known = pl.Series(range(100)), pl.Series([True] * 100)
    fewer = pl.Series([None] * nulls + list(range(nulls, 100)))
    unknown = pl.Series([False] * nulls + [True] * (100 - nulls))
    for feature in (
        compare_feature("f", values, fewer, known, known),
        compare_feature("f", values, values, known, unknown),
    ):
        assert judge(comparison(features=[feature]), THRESHOLDS).answer == verdict


def test_a_type_that_changed_is_looked_at():
    known = pl.Series([True] * 100)
    feature = compare_feature("f", pl.Series(range(100)), pl.Series(map(float, range(100))), known, known)
    assert judge(comparison(features=[feature]), THRESHOLDS).reasons == ["another type: f"]


def test_behind_is_the_worst_partition_and_all_messages():
    old = [ViewState({"g/0": Fence(100, 5_000), "g/1": Fence(50, 9_000), "gone/0": Fence(70, 1)})]
    new = [
        ViewState({"g/0": Fence(90, 4_000), "g/1": Fence(50, 9_000), "g/2": Fence(3, 1)}),
        ViewState({"g/0": Fence(80, 3_000), "g/1": Fence(60, 9_500)}),
    ]
    assert behind(old, new) == (1_000, 20)
    assert behind(new, new) == (0, 0)
    assert behind(old, []) == (0, 0)
