from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from datetime import datetime, timezone
from pathlib import Path
from random import Random

import polars as pl
import pytest

from featurestore.errors import StoreFormatError, StoreFullError
from featurestore.offline import layout
from featurestore.offline.read import read_snapshots
from featurestore.offline.snapshots import (
    OutboxEntry,
    SnapshotDataset,
    SnapshotWriter,
    finish_recovery,
    recover,
)
from tests.offline.logs import INSTANT, KilledError

TUMBLING = SnapshotDataset("card_activity", 1, "tumbling_1m")
SLIDING = SnapshotDataset("card_activity", 1, "sliding")
CREATED = datetime(2026, 11, 23, 9, tzinfo=timezone.utc)


def rows(keys: list[str], window_end_us: int = 60_000_000, revision: int = 0, count: int = 1) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "card_id": keys,
            "count_1m": [count] * len(keys),
            "window_end": [window_end_us] * len(keys),
            "revision": [revision] * len(keys),
            "created_timestamp": [CREATED] * len(keys),
        },
        schema={
            "card_id": pl.String,
            "count_1m": pl.Int64,
            "window_end": INSTANT,
            "revision": pl.Int32,
            "created_timestamp": INSTANT,
        },
    )


def entry(shard: int, sequence: int, frame: pl.DataFrame, dataset: SnapshotDataset = TUMBLING) -> OutboxEntry:
    return OutboxEntry(shard, sequence, dataset, frame.to_arrow())


class Shards:
    """Shards in memory with what a power cut would leave of them: `durable` is what was last synced."""

    def __init__(self, count: int) -> None:
        self.outboxes: list[dict[int, OutboxEntry]] = [{} for _ in range(count)]
        self.next_sequence = [0] * count
        self.sync()

    def emit(self, shard: int, dataset: SnapshotDataset, frame: pl.DataFrame) -> OutboxEntry:
        found = entry(shard, self.next_sequence[shard], frame, dataset)
        self.outboxes[shard][found.sequence] = found
        self.next_sequence[shard] += 1
        return found

    def drop(self, shard: int, sequences: list[int]) -> None:
        for sequence in sequences:
            self.outboxes[shard].pop(sequence, None)

    def sync(self) -> None:
        """What is there now survives a power cut."""
        self.synced = ([dict(outbox) for outbox in self.outboxes], list(self.next_sequence))

    def cut_power(self) -> None:
        self.outboxes, self.next_sequence = [dict(outbox) for outbox in self.synced[0]], list(self.synced[1])

    def entries(self) -> list[OutboxEntry]:
        return [outbox[sequence] for outbox in self.outboxes for sequence in sorted(outbox)]


class Emitter:
    """A shard processor that emits `total` entries a shard, after a power cut those again that were lost."""

    def __init__(self, shards: Shards, total: int) -> None:
        self.shards = shards
        self.total = total

    def next_entries(self, random: Random) -> list[OutboxEntry]:
        shard = random.randrange(len(self.shards.outboxes))
        number = self.shards.next_sequence[shard]
        if number >= self.total:
            return []
        # The sequence of a shard is its progress: what an entry holds is a function of it.
        dataset = [TUMBLING, SLIDING][(shard + number) % 2]
        frame = rows([f"{shard}-{number}-{n}" for n in range(number % 4)], (1 + number) * 60_000_000)
        return [self.shards.emit(shard, dataset, frame)]

    @property
    def done(self) -> bool:
        return min(self.shards.next_sequence) >= self.total


def run(
    root: Path,
    intents: Path,
    shards: Shards,
    total: int,
    run_id: int,
    random: Random,
    crash_point: Callable[[str], None],
) -> None:
    """One process's life: recovery, then emitting and writing as the host of the shards does it."""
    for shard, sequences in recover(root, intents).items():
        shards.drop(shard, sequences)
    crash_point("recovered")
    shards.sync()
    finish_recovery(intents)
    crash_point("recovery_finished")
    writer = SnapshotWriter(root, intents, f"store-{run_id}-0", crash_point=crash_point)
    writer.add(shards.entries())
    emitter = Emitter(shards, total)
    while not emitter.done:
        writer.add(emitter.next_entries(random))
        if random.random() < 0.3:
            write(writer, shards, crash_point)
    write(writer, shards, crash_point)
    shards.sync()
    crash_point("synced")
    writer.close()


def write(writer: SnapshotWriter, shards: Shards, crash_point: Callable[[str], None]) -> None:
    shards.sync()
    for shard, sequences in writer.write().items():
        shards.drop(shard, sequences)
        crash_point("dropped_one")
    writer.done()


def written_keys(root: Path) -> Counter[str]:
    return Counter(
        key
        for dataset in (TUMBLING, SLIDING)
        for frame in [read_snapshots(root, dataset.view, dataset.version, dataset.window)]
        if len(frame)
        for key in frame["card_id"]
    )


def expected_keys(shards: int, total: int) -> Counter[str]:
    return Counter(
        f"{shard}-{number}-{n}" for shard in range(shards) for number in range(total) for n in range(number % 4)
    )


def live_until_done(tmp_path: Path, random: Random, crash_point: Callable[[str], None], *, power_cuts: bool) -> None:
    shards = Shards(3)
    for run_id in range(10_000):
        try:
            run(tmp_path / "offline", tmp_path / "intents", shards, 8, run_id, random, crash_point)
        except KilledError:
            if power_cuts and random.random() < 0.5:
                shards.cut_power()
        else:
            return
    raise AssertionError("never came to an end")


@pytest.mark.parametrize("power_cuts", [False, True], ids=["kill", "power_cut"])
def test_every_row_is_in_one_file_once_whatever_crashes(tmp_path: Path, power_cuts: bool) -> None:
    crashes = Counter[str]()
    for seed in range(200):
        random = Random(seed)

        def crash_point(point: str, random: Random = random) -> None:
            if random.random() < 0.08:
                crashes[point] += 1
                raise KilledError(point)

        live_until_done(tmp_path / str(seed), random, crash_point, power_cuts=power_cuts)
        assert written_keys(tmp_path / str(seed) / "offline") == expected_keys(3, 8), f"seed {seed}"
    assert {
        "intent_temporary_written",
        "intent_renamed",
        "file_written",
        "renamed_one",
        "published",
        "dropped_one",
        "done",
        "recovered",
        "recovery_finished",
        "previous_removed",
    } <= set(crashes)


def test_a_crash_at_each_point_in_turn_leaves_each_row_in_one_file(tmp_path: Path) -> None:
    crash_at, crashed = 0, True
    while crashed:
        passed, crashed = 0, False

        def crash_point(point: str, crash_at: int = crash_at) -> None:
            nonlocal passed, crashed
            passed += 1
            if not crashed and passed > crash_at:
                crashed = True
                raise KilledError(point)

        root = tmp_path / str(crash_at)
        live_until_done(root, Random(3), crash_point, power_cuts=False)
        assert written_keys(root / "offline") == expected_keys(3, 8), f"crash at point {crash_at}"
        crash_at += 1
    assert crash_at > 50


def test_a_power_cut_after_the_drop_does_not_bring_the_rows_twice(tmp_path: Path) -> None:
    # The shard forgets that it dropped the entry, for its log was not synced since: the intent must still
    # be there.
    shards = Shards(1)
    writer = SnapshotWriter(tmp_path / "offline", tmp_path / "intents", "w")
    writer.add([shards.emit(0, TUMBLING, rows(["a"]))])
    write(writer, shards, lambda point: None)
    shards.cut_power()
    assert len(shards.entries()) == 1
    assert recover(tmp_path / "offline", tmp_path / "intents") == {0: [0]}


def test_files_removed_by_a_user_after_the_drop_do_not_make_the_write_incomplete(tmp_path: Path) -> None:
    root, intents = tmp_path / "offline", tmp_path / "intents"
    writer = SnapshotWriter(root, intents, "w")
    writer.add([entry(0, 0, rows(["a"])), entry(0, 1, rows(["b"]), SLIDING)])
    writer.write()
    writer.done()
    folder = layout.snapshot_dir(root, TUMBLING)
    (folder / layout.snapshot_name("w", 0)).unlink()
    assert recover(root, intents) == {0: [0, 1]}
    assert read_snapshots(root, "card_activity", 1, "sliding")["card_id"].to_list() == ["b"]


def test_one_write_makes_one_file_a_dataset_sorted_by_window(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "offline", tmp_path / "intents", "w")
    writer.add([entry(0, 4, rows(["b"], 120)), entry(1, 9, rows(["a"], 60)), entry(1, 10, rows(["c"]), SLIDING)])
    assert writer.write() == {0: [4], 1: [9, 10]}
    writer.done()
    assert len(list((tmp_path / "offline").rglob("*.parquet"))) == 2
    frame = read_snapshots(tmp_path / "offline", "card_activity", 1, "tumbling_1m")
    assert frame["card_id"].to_list() == ["a", "b"]
    assert frame.schema == rows([]).schema


def test_intents_of_writes_long_done_do_not_gather(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "offline", tmp_path / "intents", "w")
    for number in range(3):
        writer.add([entry(0, number, rows(["a"], number * 60))])
        writer.write()
        writer.done()
    assert [path.name for path in (tmp_path / "intents").iterdir()] == ["w-00000002.written.json"]
    writer.close()
    assert list((tmp_path / "intents").iterdir()) == []


def test_entries_without_rows_are_dropped_without_a_file(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "offline", tmp_path / "intents", "w")
    writer.add([entry(0, 0, rows([]))])
    assert writer.write() == {0: [0]}
    writer.done()
    assert writer.write() == {}
    assert not list(tmp_path.rglob("*.parquet"))


def test_a_write_is_due_by_rows_or_by_age(tmp_path: Path) -> None:
    now = 100.0
    writer = SnapshotWriter(tmp_path, tmp_path / "i", "w", min_rows=3, max_age_s=5.0, clock=lambda: now)
    assert not writer.due(1e9)
    writer.add([entry(0, 0, rows(["a", "b"]))])
    assert not writer.due(104.9)
    assert writer.due(105.0)
    writer.add([entry(0, 1, rows(["c"]))])
    assert writer.due(100.0)


def test_a_full_disk_leaves_no_row_in_a_file_and_keeps_the_entries(tmp_path: Path) -> None:
    root = tmp_path / "offline"
    writer = SnapshotWriter(root, tmp_path / "intents", "w")
    writer.add([entry(0, 0, rows(["a"])), entry(0, 1, rows(["b"]), SLIDING)])
    path = layout.snapshot_dir(root, SLIDING) / layout.snapshot_name("w", 0)
    path.parent.mkdir(parents=True)
    layout.temporary_path(path).symlink_to("/dev/full")
    with pytest.raises(StoreFullError, match="sliding"):
        writer.write()
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    assert writer.write() == {0: [0, 1]}


def test_a_writer_id_used_again_overwrites_nothing(tmp_path: Path) -> None:
    for number, key in enumerate(["a", "b"]):
        writer = SnapshotWriter(tmp_path / "offline", tmp_path / "intents", "w")
        writer.add([entry(0, number, rows([key]))])
        writer.write()
        writer.done()
        finish_recovery(tmp_path / "intents")
    assert written_keys(tmp_path / "offline") == Counter(["a", "b"])


def test_the_valid_row_is_the_one_of_the_highest_revision(tmp_path: Path) -> None:
    writer = SnapshotWriter(tmp_path / "offline", tmp_path / "intents", "w")
    writer.add([entry(0, 1, rows(["a"], revision=1, count=5)), entry(0, 0, rows(["a", "b"]))])
    writer.write()
    frame = read_snapshots(tmp_path / "offline", "card_activity", 1, "tumbling_1m", ["card_id"])
    assert list(frame.select("card_id", "count_1m", "revision").iter_rows()) == [("a", 5, 1), ("b", 1, 0)]


def test_an_intent_that_cannot_be_read_is_an_error_not_a_fresh_start(tmp_path: Path) -> None:
    (tmp_path / "w-00000000.intent.json").write_bytes(b"{")
    with pytest.raises(StoreFormatError, match="w-00000000"):
        recover(tmp_path / "offline", tmp_path)


def test_reading_a_dataset_without_files_gives_an_empty_frame(tmp_path: Path) -> None:
    assert read_snapshots(tmp_path, "card_activity", 1, "sliding", ["card_id"]).is_empty()
