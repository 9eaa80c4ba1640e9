"""`featurestore offline iceberg`: what a command plans beside a materialization, and what it says without its extra."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import datetime, timezone
from pathlib import Path

import polars as pl
import polars.testing
import pytest

from featurestore.cli.init import write_project
from featurestore.cli.offline_datasets import Chosen
from featurestore.cli.side_messages import Deployed
from featurestore.offline.iceberg import Synced, open_catalog, sync_tables
from featurestore.offline.layout import batch_dir
from featurestore.registry import RegisteredBatchView
from tests.batch.support import Project, Row, compiled, write_rows
from tests.cli.support import ROOT

TABLE = "features.limits_v1_batch"


class KilledError(Exception):
    """The materialization ended here."""


@pytest.mark.parametrize("point", ["begun", "part_written", "merged", "offline_finished"])
def test_rows_of_a_killed_materialization_come_when_it_was_finished(tmp_path: Path, point: str) -> None:
    project, view = Project(tmp_path, part_rows=2), compiled()
    root = project.data / "offline"
    registered = RegisteredBatchView(7, 1, view.spec, datetime.now(timezone.utc), "test")
    chosen = Chosen(project.data, Deployed({}, {}, {"limits": registered}), [], [], [batch_dir(root, "limits", 1)])

    def sync() -> Synced:
        (done,) = sync_tables(root, open_catalog(root, None), chosen.plan_tables, grace_s=0.0)
        return done

    def table() -> pl.DataFrame:
        found = pl.from_arrow(open_catalog(root, None).load_table(TABLE).scan().to_arrow())
        assert isinstance(found, pl.DataFrame)
        return found

    def die(at: str) -> None:
        if at == point:
            raise KilledError

    write_rows(tmp_path / "rows" / "1.parquet", [Row(card, 1, 10, 1) for card in "abc"])
    project.materialize(view, 10)
    sync()
    first = project.rows(view)
    write_rows(tmp_path / "rows" / "2.parquet", [Row(card, 12, 20, 12) for card in "abcde"])
    with pytest.raises(KilledError):
        project.materialize(view, 20, crash_point=die)
    assert (sync().added, table().height) == (0, first.height)
    project.materialize(view, 21)
    assert sync().added == 3
    polars.testing.assert_frame_equal(table(), project.rows(view), check_dtypes=False, check_row_order=False)
    assert table().height == 8


def test_without_the_extra_the_way_to_it_is_told(tmp_path: Path) -> None:
    # A real interpreter in which the library can't be found, as where it was never installed.
    (tmp_path / "sitecustomize.py").write_text(
        "import sys\n"
        "class Absent:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'pyiceberg':\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Absent())\n"
    )
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    folder = tmp_path / "project"
    write_project(folder)

    def featurestore(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "featurestore", *arguments]
        return subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=60
        )

    assert featurestore("apply", "pipelines/transactions.py").returncode == 0
    done = featurestore("offline", "iceberg")
    assert done.returncode == 1
    assert "this needs pyiceberg, which is not installed" in done.stderr
    assert "featurestore[iceberg]" in done.stderr
    assert featurestore("offline", "compact", "--dry-run").returncode == 0, "the others need no Iceberg"
