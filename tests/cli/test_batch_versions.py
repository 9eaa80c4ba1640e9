"""A batch view's life from the shell: a second version beside the served one, promoted, taken back, retired, purged."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.support import session

MODULE = """
import polars as pl
from featurestore import BatchFeatureView, Entity, Field, FileSource

card = Entity("card", join_keys={"card_id": pl.String})
limits = BatchFeatureView(
    "limits", source=FileSource("limits/*.csv", event_time="at", created_time="loaded"), entities=[card],
    features=[Field("credit", pl.Int64)],
)
"""
OLD = "card_id,credit,at,loaded\nc1,100,2026-01-01,2026-01-01\nc2,200,2026-01-02,2026-01-03\n"
NEW = OLD.replace("100", "1000")
SECOND = {"features.py": MODULE.replace("limits/*", "other/*"), "other/1.csv": NEW}
READ = [["get", f"{view}:credit", "-e", "card_id=c1", "--json"] for view in ("limits", "limits@1", "limits@2")]
ALL = ["materialize", "--json"]


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A project whose view is materialized, of one version."""
    (tmp_path / "limits").mkdir()
    (tmp_path / "limits" / "1.csv").write_text(OLD)
    (tmp_path / "features.py").write_text(MODULE)
    return tmp_path


def credit(answer: tuple[int, str, str]) -> Any:
    return json.loads(answer[1])["results"][1]["values"][0]


def document(answer: tuple[int, str, str]) -> Any:
    assert answer[0] == 0, answer[2]
    return json.loads(answer[1])


def runs(answer: tuple[int, str, str]) -> list[tuple[str, int, int]]:
    return [(one["view"], one["version"], one["rows"]) for one in json.loads(answer[1])["materialized"]]


def test_from_the_second_version_to_the_end_of_the_first(project: Path) -> None:
    applied = session(
        project,
        ["materialize", "features.py", "--apply", "--json"],
        SECOND,
        ["plan", "features.py"],
        ["apply", "features.py"],
        ["status", "--json"],
        *READ,
        ["promote", "limits@2"],
        ["canary", "limits@2", "--share", "0.5"],
        ["compare", "limits@2"],
        ["status"],
    )
    first, plan, _, status, served, old, new, promoted, canary, compared, told = applied
    assert (runs(first), document(first)["promoted"]) == ([("limits", 1, 2)], [])
    assert "limits: once a second version is filled it takes about 2 keys" in plan[1]
    roles = [(view["version"], view["role"], view["entities"]) for view in document(status)["batch_views"]]
    assert roles == [(1, "served", 2), (2, "shadow", 0)]
    assert [credit(one) for one in (served, old, new)] == [100, 100, None]
    for refused in (promoted, canary):
        assert refused[0] == 1
        assert "no run has materialized version 2 of batch view 'limits' to its end" in refused[2]
    assert compared[0] == 1
    assert "not ready: limits@2" in compared[1]
    assert "limits@2: nothing is materialized yet: featurestore materialize limits@2" in told[1]

    filled = session(
        project,
        ALL,
        *READ,
        ["compare", "limits@2", "--json"],
        ["promote", "limits@2"],
        READ[0],
        READ[1],
        ["rollback", "limits"],
        READ[0],
        ["canary", "limits@2", "--share", "0.999999"],
        READ[0],
        ["promote", "limits@2", "--json"],
        ["versions", "limits", "--json"],
        ["jobs", "--json"],
    )
    both, served, old, new, compared, promoted, after, pinned, _, back, _, drawn, last, versions, jobs = filled
    assert runs(both) == [("limits", 1, 0), ("limits", 2, 2)]
    assert len({one["to_time"] for one in document(both)["materialized"]}) == 1
    assert [credit(one) for one in (served, old, new)] == [100, 100, 1000]
    found = json.loads(compared[1])
    assert found["verdict"]["answer"] == "look first"
    assert found["comparison"]["features"][0]["equal_share"] == 0.5
    assert "limits: version 2 is served; version 1 is computed still" in promoted[1]
    assert [credit(one) for one in (after, pinned, back, drawn)] == [1000, 100, 100, 1000]
    assert document(last)["route"]["canary"] is None
    assert [one["role"] for one in document(versions)["versions"]] == ["previous", "served"]
    subjects = [one["subject"] for one in document(jobs)["jobs"] if one["kind"] == "materialize"]
    assert sorted(subjects) == ["limits@1", "limits@1", "limits@2"]

    ended = session(
        project,
        ["view", "purge", "limits", "--yes", "--json"],
        ["retire", "limits@2", "--yes"],
        ["retire", "limits@1", "--yes"],
        ALL,
        ["status", "--disk", "--json"],
        ["view", "purge", "limits", "--yes", "--json"],
        ["offline", "ls", "--json"],
        ["rollback", "limits"],
        *READ,
    )
    nothing, refused, retired, only, disk, purged, listed, gone, served, old, new = ended
    assert document(nothing)["removed"] == []
    assert "version 2 of view 'limits' is served" in refused[2]
    assert "limits@1 is retired; remove its rows: featurestore view purge limits" in retired[1]
    assert runs(only) == [("limits", 2, 0)]
    (view,) = document(disk)["disk"]["views"]
    assert [(one["version"], one["live"], one["entities"]) for one in view["versions"]] == [(1, False, 2), (2, True, 2)]
    assert [one["version"] for one in document(purged)["removed"]] == [1]
    assert [one["dataset"] for one in document(listed)["datasets"]] == ["features/limits/v2/batch"]
    assert "no version to go back to" in gone[2]
    assert "version 1 of feature view 'limits' is not computed" in old[2]
    assert [credit(served), credit(new)] == [1000, 1000]


def test_a_version_that_fails_keeps_no_other_from_being_done_and_is_served_once_it_is_filled(project: Path) -> None:
    applied = ["materialize", "features.py", "--apply", "--json"]
    interval = ["--from", "2026-01-02T00:00:00Z", "--to", "2026-02-01T00:00:00Z"]
    done = session(
        project,
        applied,
        {"features.py": SECOND["features.py"]},
        applied,  # its files are missing
        READ[0],
        SECOND,
        ["materialize", "limits@2", "limits@9"],
        ["materialize", "limits", *interval, "--json"],
        READ[0],
        applied,
        READ[0],
        ["rollback", "limits"],
        applied,
        READ[0],
        ["materialize", "limits@1", "--json"],
    )
    _, failed, kept, unknown, again, old, promoted, new, _, left, back, one = done
    assert failed[0] == 75
    assert runs(failed) == [("limits", 1, 0)]
    told = json.loads(failed[1])
    assert [(each["view"], each["version"], each["retryable"]) for each in told["failed"]] == [("limits", 2, True)]
    assert told["promoted"] == []
    assert "Error: view 'limits@2': source other/*.csv: no file matches" in failed[2]
    assert (unknown[0], "version 9 of view 'limits' is not computed" in unknown[2]) == (1, True)
    # The first version does the interval again; the second, never filled, gets what was before it too.
    spans = [(each["version"], each["from_time"], each["resumed"]) for each in document(again)["materialized"]]
    assert spans[0] == (1, "2026-01-02T00:00:00Z", False)
    assert spans[1] == (2, None, True)
    assert [credit(each) for each in (kept, old)] == [100, 100]
    # What the first try could not do the next one does; what was taken back stays so.
    assert document(promoted)["promoted"] == ["limits@2"]
    assert credit(new) == 1000
    assert document(left)["promoted"] == []
    assert credit(back) == 100
    assert runs(one) == [("limits", 1, 0)]
