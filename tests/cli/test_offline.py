"""`featurestore offline ls`: what the footers say is what the files hold."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import polars as pl
import pytest

from featurestore.cli.init import write_project
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.sources.embedded import EmbeddedBroker
from tests.cli.support import answer, command, run_until_end, send


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A project that has read some thousand messages, late and broken ones among them."""
    folder = tmp_path_factory.mktemp("offline") / "project"
    write_project(folder)
    with EmbeddedBroker(folder / "data") as broker:
        send(broker, TransactionStream(Shape(events=3_000, broken_share=0.01, too_late_share=0.01)))
        run_until_end(folder)
    return folder


def test_figures_are_those_of_the_data(project: Path):
    report = answer(project, "offline", "ls")
    root = project / "data" / "offline"
    assert report["root"] == str(root)
    names = [dataset["dataset"] for dataset in report["datasets"]]
    assert {"events/transactions", "late/transactions", "dead_letter/transactions"} < set(names)
    assert any(name.startswith("features/card_activity/v1/") for name in names)
    for dataset in report["datasets"]:
        files = list((root / dataset["dataset"]).rglob("*.parquet"))
        rows = pl.concat([pl.read_parquet(file) for file in files], how="diagonal_relaxed")
        assert (dataset["files"], dataset["rows"]) == (len(files), rows.height)
        assert dataset["size_bytes"] == sum(file.stat().st_size for file in files)
        times = rows[dataset["time_column"]]
        assert datetime.fromisoformat(dataset["earliest"].replace("Z", "+00:00")) == times.min()
        assert datetime.fromisoformat(dataset["latest"].replace("Z", "+00:00")) == times.max()


def test_people_get_a_table(project: Path):
    done = command(project, "offline", "ls")
    assert done.returncode == 0, done.stderr
    for shown in ("events/transactions", "KiB", "window_end", "arrival_time"):
        assert shown in done.stdout


def test_a_damaged_file_is_named(project: Path, tmp_path: Path):
    copy = tmp_path / "data" / "offline" / "events" / "payments" / "topic_generation=g" / "topic_partition=0"
    copy.mkdir(parents=True)
    (copy / f"{0:020}.parquet").write_bytes(b"not parquet")
    done = command(tmp_path, "offline", "ls")
    assert done.returncode == 1
    assert f"{0:020}.parquet is damaged" in done.stderr


def test_a_hidden_file_half_written_is_not_counted(tmp_path: Path):
    folder = tmp_path / "data" / "offline" / "features" / "v" / "v1" / "sliding"
    folder.mkdir(parents=True)
    (folder / ".x.parquet.tmp").write_bytes(b"half")
    (report,) = answer(tmp_path, "offline", "ls")["datasets"]
    assert (report["files"], report["rows"], report["earliest"]) == (0, 0, None)


def test_without_data_it_says_what_to_do(tmp_path: Path):
    done = command(tmp_path, "offline", "ls")
    assert done.returncode == 1
    assert "there is no data in" in done.stderr
    assert "featurestore init" in done.stderr
    (tmp_path / "data").mkdir()
    assert "featurestore run" in command(tmp_path, "offline", "ls").stdout
