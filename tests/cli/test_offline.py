"""`featurestore offline`: what is listed is what files hold; compaction, removal and verification as commands."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow.parquet as pq
import pytest

from featurestore.cli.init import write_project
from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.offline import read_snapshots
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


def test_compaction_leaves_fewer_files_and_the_same_rows(tmp_path: Path):
    folder = tmp_path / "project"
    write_project(folder)
    offline = folder / "data" / "offline"
    with EmbeddedBroker(folder / "data") as broker:
        for number in range(4):
            stream = TransactionStream(Shape(events=600, start=f"2026-11-20T{10 + number}:00:00Z", duration_s=1_800))
            send(broker, stream)
            run_until_end(folder)
    dataset = "features/card_activity/v1/tumbling_1m"
    before = {one["dataset"]: one for one in answer(folder, "offline", "ls")["datasets"]}
    rows = read_snapshots(offline, "card_activity", 1, "tumbling_1m").sort("card_id", "window_end", "revision")
    dry = answer(folder, "offline", "compact", "card_activity", "--dry-run")["would_compact"]
    assert {job["dataset"] for job in dry} == {dataset, "features/card_activity/v1/sliding"}
    table = command(folder, "offline", "compact", "--dry-run").stdout
    assert "features/merchant_activity/v1/sliding" in table
    assert {one["dataset"]: one for one in answer(folder, "offline", "ls")["datasets"]} == before, (
        "a dry run changes none"
    )
    done = answer(folder, "offline", "compact", "card_activity", "--grace", "0s")["compacted"]
    (tumbling,) = (one for one in done if one["dataset"] == dataset)
    after = {one["dataset"]: one for one in answer(folder, "offline", "ls")["datasets"]}
    assert tumbling["files_before"] - tumbling["files_after"] == before[dataset]["files"] - after[dataset]["files"] > 0
    assert after[dataset]["rows"] == before[dataset]["rows"] == rows.height
    assert (
        read_snapshots(offline, "card_activity", 1, "tumbling_1m")
        .sort("card_id", "window_end", "revision")
        .equals(rows)
    )
    untouched = "features/merchant_activity/v1/sliding"
    assert after[untouched] == before[untouched], "it was not named"
    assert "files" in command(folder, "offline", "compact", "--grace", "0s").stdout
    assert command(folder, "offline", "compact", "--grace", "0s").stdout == "nothing to compact\n"


def test_a_name_of_which_nothing_is_written_is_refused_with_the_nearest(project: Path):
    for arguments in (["compact", "transaction"], ["prune", "transaction", "--older-than", "1d"]):
        done = command(project, "offline", *arguments)
        assert done.returncode == 1
        assert "there is transactions" in done.stderr


def test_a_prune_that_finds_nothing_asks_nothing(project: Path):
    done = command(project, "offline", "prune", "transactions", "card_activity", "--older-than", "3650d")
    assert done.returncode == 0, done.stderr
    assert "nothing was removed" in done.stdout


# -- verify


def verify(project: Path, *options: str) -> dict[str, dict[tuple[str, str], dict[str, Any]]]:
    """What it found, by view, dataset and feature."""
    done = command(project, "offline", "verify", *options, "--json")
    assert done.stdout, done.stderr
    views = json.loads(done.stdout)["views"]
    found = {view["view"]: {(c["dataset"], c["feature"]): c for c in view["comparisons"]} for view in views}
    clean = not any(c["different"] + c["missing"] + c["extra"] for view in found.values() for c in view.values())
    assert done.returncode == (0 if clean else 1)
    return found


def test_what_a_run_has_written_is_what_the_archive_gives(project: Path):
    found = verify(project)
    assert set(found) == {"card_activity", "merchant_activity"}
    for view in found.values():
        assert {dataset for dataset, _ in view} >= {"sliding", "online"}
        assert all(one["compared"] == one["equal"] > 0 for one in view.values())
        assert not any(one["different"] + one["missing"] + one["extra"] for one in view.values())
    sampled = verify(project, "--sample", "7", "card_activity")
    assert sampled["card_activity"]["online", "count_1h"]["compared"] == 7


@pytest.mark.parametrize("damage", ["changed", "missing", "extra"])
def test_a_row_that_is_wrong_is_found_and_told(project: Path, tmp_path: Path, damage: str):
    copy = tmp_path / "project"
    shutil.copytree(project, copy)
    folder = copy / "data" / "offline" / "features" / "card_activity" / "v1" / "tumbling_1m"
    path = max(folder.glob("*.parquet"), key=lambda found: pl.read_parquet(found).height)
    rows = pl.read_parquet(path).sort("window_end", "card_id")
    total = "amount_eur_sum_tumbling_1m"
    if damage == "changed":
        first = pl.int_range(pl.len()) == 0
        rows = rows.with_columns(pl.when(first).then(pl.col(total) * (1 + 1e-7)).otherwise(pl.col(total)).alias(total))
    elif damage == "missing":
        rows = rows.slice(1)
    else:
        rows = pl.concat([rows, rows.head(1).with_columns(card_id=pl.lit("card_of_nobody"))])
    rows.write_parquet(path)
    found = verify(copy, "card_activity")["card_activity"]
    wrong = {place: one for place, one in found.items() if one["different"] + one["missing"] + one["extra"]}
    features = {"changed": {total}}.get(damage, {total, "count_tumbling_1m"})
    assert set(wrong) == {("tumbling_1m", feature) for feature in features}
    figure = {"changed": "different"}.get(damage, damage)
    assert all(one[figure] == 1 for one in wrong.values())


def test_events_that_the_archive_lost_are_found_online_too(project: Path, tmp_path: Path):
    copy = tmp_path / "project"
    shutil.copytree(project, copy)
    path = max((copy / "data" / "offline" / "events").rglob("*.parquet"))
    table = pq.read_table(path)
    pq.write_table(table.slice(0, table.num_rows - 1), path)
    found = verify(copy, "merchant_activity")["merchant_activity"]
    assert found["online", "count"]["different"] == 1 or found["online", "count"]["extra"] == 1


def test_verify_asks_no_module_and_names_the_nearest_view(project: Path, tmp_path: Path):
    copy = tmp_path / "project"
    shutil.copytree(project, copy)
    shutil.rmtree(copy / "pipelines")
    assert verify(copy, "--sample", "7", "card_activity")["card_activity"]["online", "count_1h"]["equal"] == 7
    done = command(project, "offline", "verify", "card_activiti")
    assert done.returncode == 1
    assert "did you mean card_activity" in done.stderr
