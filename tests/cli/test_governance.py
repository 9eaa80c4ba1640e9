"""Owners that a setting requires, notes of deprecated features, and freshness against an SLO, from the shell."""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from pathlib import Path

import polars as pl
import pytest

from featurestore.examples import write_project
from tests.cli.support import MODULE, answer, command

LIMITS = """
import polars as pl
from featurestore import SLO, BatchFeatureView, Deprecated, Entity, Field, FileSource

limits = BatchFeatureView(
    "limits",
    source=FileSource("limits.parquet", event_time="at"),
    entities=[Entity("card", join_keys={"card_id": pl.String})],
    features=[
        Field("credit", pl.Int64).describe(unit="EUR"),
        Field("tier", pl.Int64).describe(deprecated=Deprecated("2026-11-01", replacement="limits:credit")),
    ],
    slo=SLO(freshness="1h"),
    owner="",
)
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A batch view without an owner whose newest row is ten minutes old."""
    at = [datetime.now(timezone.utc) - timedelta(minutes=10)]
    pl.DataFrame({"card_id": ["a"], "credit": [1], "tier": [2], "at": at}).write_parquet(tmp_path / "limits.parquet")
    (tmp_path / "limits.py").write_text(LIMITS)
    (tmp_path / "featurestore.toml").write_text("[registry]\nrequire_owner = true\n")
    return tmp_path


def own(project: Path) -> None:
    (project / "limits.py").write_text(LIMITS.replace('owner=""', 'owner="risk@example.com"'))


@pytest.mark.parametrize(
    "asked", [("plan", "limits.py"), ("apply", "limits.py"), ("materialize", "limits.py", "--apply")]
)
def test_what_nobody_owns_is_not_applied_where_owners_are_required(project: Path, asked: tuple[str, ...]) -> None:
    refused = command(project, *asked)
    assert refused.returncode == 1
    assert "view 'limits' without an owner, which [registry] require_owner asks for" in refused.stderr
    assert not (project / "data" / "registry").exists()
    own(project)
    assert command(project, *asked).returncode == 0


def test_without_the_setting_no_owner_is_needed(project: Path) -> None:
    (project / "featurestore.toml").write_text("")
    assert command(project, "apply", "limits.py").returncode == 0


@pytest.mark.parametrize("asked", ["run", "backfill"])
def test_workers_apply_nothing_that_nobody_owns_either(tmp_path: Path, asked: str) -> None:
    write_project(tmp_path)
    module = tmp_path / MODULE
    module.write_text(module.read_text().replace('    owner="risk@example.com",\n', ""))
    (tmp_path / "featurestore.toml").write_text("[registry]\nrequire_owner = true\n")
    (tmp_path / "data").mkdir()
    refused = command(tmp_path, asked, MODULE, "--apply")
    assert refused.returncode == 1
    assert "view 'card_activity', view 'merchant_activity' without an owner" in refused.stderr


def test_a_deprecated_feature_is_noted_on_stderr_and_in_the_plan(project: Path) -> None:
    own(project)
    note = "Warning: limits:tier is deprecated since 2026-11-01; use limits:credit\n"
    for asked in ("plan", "apply"):
        done = command(project, asked, "limits.py", "--json")
        assert done.stderr == note
        assert json.loads(done.stdout)["has_changes"]
    (project / "limits.py").write_text((project / "limits.py").read_text().replace("2026-11-01", "2026-10-01"))
    told = command(project, "plan", "limits.py").stdout
    assert "~ batch view limits version 1\n" in told
    assert 'features.tier.metadata.deprecated.since: "2026-11-01" -> "2026-10-01"' in told


def test_status_tells_whether_a_view_keeps_its_freshness_slo(project: Path) -> None:
    own(project)
    assert command(project, "apply", "limits.py").returncode == 0
    before = answer(project, "status")["batch_views"][0]
    assert (before["freshness_s"], before["freshness_slo_s"]) == (None, 3600.0)
    assert "freshness SLO" not in command(project, "status").stdout
    assert command(project, "materialize", "limits.py").returncode == 0
    assert "limits: keeps its freshness SLO of 60.0 min" in command(project, "status").stdout
    (project / "limits.py").write_text((project / "limits.py").read_text().replace('freshness="1h"', 'freshness="5m"'))
    assert command(project, "apply", "limits.py").returncode == 0
    assert "limits: misses its freshness SLO of 5.0 min" in command(project, "status").stdout
    assert answer(project, "status")["batch_views"][0]["version"] == 1
