"""A backup comes back as it was; a damaged one is refused; a restore that was cut off is finished."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest

from featurestore.config import Settings
from featurestore.errors import StoreError, StoreFormatError, StoreFullError, StoreLockedError
from featurestore.online import layout
from featurestore.online.source_store import lock_source, open_source_store
from featurestore.online.steps import between_steps, whole_step
from featurestore.recovery import restore as restoring
from featurestore.recovery.backup import backup
from featurestore.recovery.restore import restore
from featurestore.registry import Registry
from featurestore.testing.crash import CrashSchedule, SimulatedCrash

SOURCE = "payments"
EVENTS = "offline/events/payments/topic_generation=g/topic_partition=0/00000000000000000000.parquet"


def settings_of(data_dir: Path) -> Settings:
    return Settings.load(data_dir.parent, {"store.data_dir": data_dir})


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Stores of one source, an archive file, a registry, a journal, and files that belong in no backup."""
    folder = tmp_path / "project" / "data"
    layout.source_dir(folder, SOURCE).mkdir(parents=True)
    open_source_store(folder, SOURCE, 2)
    Registry.open(folder / "registry" / "registry.db").close()
    for name in (EVENTS, "online/payments/verdicts/g-0.judged", "online/payments/verdicts/g-0.future"):
        put(folder / name, name)
    put(folder / "replays/payments/journal.jsonl", "")
    put(folder / "broker.json", "{}")
    put(folder / "offline/events/payments/.x.parquet.tmp", "half")
    put(folder / "offline/_iceberg/catalog.db", "paths of this machine")
    return folder


def put(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def content(data_dir: Path) -> dict[str, bytes]:
    """What a backup has to bring back."""
    return {
        path.relative_to(data_dir).as_posix(): path.read_bytes()
        for name in ("online", "offline", "replays")
        for path in (data_dir / name).rglob("*")
        if path.is_file() and not path.name.startswith((".", "LO", "OPTIONS")) and "_iceberg" not in path.parts
    }


def test_what_was_backed_up_comes_back(data_dir: Path, tmp_path: Path):
    report = backup(settings_of(data_dir), tmp_path / "b")
    assert (report.sources, report.registry) == ([SOURCE], True)
    before = content(data_dir)
    other = tmp_path / "other" / "data"
    back = restore(settings_of(other), tmp_path / "b")
    assert content(other) == before
    assert back.set_aside is None
    assert not (other / "broker.json").exists()
    assert not (other / "offline" / "_iceberg").exists()
    Registry.open(other / "registry" / "registry.db", create=False).close()
    assert open_source_store(other, SOURCE, 9).shards == 2
    with pytest.raises(StoreError, match="is not empty"):
        backup(settings_of(data_dir), tmp_path / "b")
    with pytest.raises(StoreError, match="lies in the data_dir itself"):
        backup(settings_of(data_dir), data_dir / "b")


def test_files_that_have_not_changed_are_linked_to_an_earlier_backup(data_dir: Path, tmp_path: Path):
    backup(settings_of(data_dir), tmp_path / "one")
    put(data_dir / EVENTS, "rewritten, of another size")
    report = backup(settings_of(data_dir), tmp_path / "two", base=tmp_path / "one")
    assert 0 < report.linked < report.files
    other = tmp_path / "other" / "data"
    restore(settings_of(other), tmp_path / "two")
    assert content(other) == content(data_dir)


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone"])
def test_a_damaged_backup_is_refused_and_nothing_is_touched(data_dir: Path, tmp_path: Path, damage: str):
    backup(settings_of(data_dir), tmp_path / "b")
    path = tmp_path / "b" / "data" / EVENTS
    whole = path.read_bytes()
    if damage == "gone":
        path.unlink()
    else:
        path.write_bytes(whole[:-1] if damage == "cut" else whole[:5] + bytes([whole[5] ^ 1]) + whole[6:])
    before = content(data_dir)
    with pytest.raises(StoreFormatError, match=f"{path.name} is damaged"):
        restore(settings_of(data_dir), tmp_path / "b")
    assert content(data_dir) == before
    assert not (data_dir / ".restored").exists()
    lock_source(data_dir, SOURCE).release()


def test_a_backup_of_another_format_or_none_is_refused(data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    backup(settings_of(data_dir), tmp_path / "b")
    path = tmp_path / "b" / "backup.json"
    document = json.loads(path.read_text())
    for field, told in (("format_version", "has format version 9"), ("store_format", "stores of format 9")):
        path.write_text(json.dumps({**document, field: 9}))
        with pytest.raises(StoreFormatError, match=told):
            restore(settings_of(data_dir), tmp_path / "b")
    path.write_text(path.read_text()[:-20])
    with pytest.raises(StoreFormatError, match="can't be understood"):
        restore(settings_of(data_dir), tmp_path / "b")
    path.unlink()
    with pytest.raises(StoreError, match="is no backup"):
        restore(settings_of(data_dir), tmp_path / "b")
    path.write_text(json.dumps(document))
    monkeypatch.setattr(restoring.shutil, "disk_usage", lambda path: type("Usage", (), {"free": 10}))
    with pytest.raises(StoreFullError, match="has 10 bytes left"):
        restore(settings_of(data_dir), tmp_path / "b")


@pytest.mark.parametrize("seed", range(12))
def test_a_restore_killed_anywhere_is_finished_and_nothing_runs_before(data_dir: Path, tmp_path: Path, seed: int):
    backup(settings_of(data_dir), tmp_path / "b")
    before = content(data_dir)
    put(data_dir / EVENTS, "what came later")
    put(data_dir / "rebuild/payments/rebuild.json", "of what came later")
    point = CrashSchedule(seed, mean_points=4, deaths=3)
    while True:
        try:
            report = restore(settings_of(data_dir), tmp_path / "b", crash_point=point)
            break
        except SimulatedCrash as crash:
            if str(crash) != "copied":
                with pytest.raises(StoreError, match="half exchanged"):
                    lock_source(data_dir, SOURCE)
    assert content(data_dir) == before
    assert not (data_dir / "rebuild").exists()
    assert not (data_dir / ".restored").exists()
    assert report.set_aside is not None
    assert (Path(report.set_aside) / EVENTS).read_text() == "what came later"
    lock_source(data_dir, SOURCE).release()


def test_it_is_refused_while_a_worker_runs_and_while_another_restore_is_half_done(data_dir: Path, tmp_path: Path):
    backup(settings_of(data_dir), tmp_path / "b")
    lock = lock_source(data_dir, SOURCE)
    with pytest.raises(StoreLockedError, match="'payments' is being run by process"):
        restore(settings_of(data_dir), tmp_path / "b")
    lock.release()

    def dies(point: str) -> None:
        if point == "gate_written":
            raise SimulatedCrash(point)

    with pytest.raises(SimulatedCrash):
        restore(settings_of(data_dir), tmp_path / "b", crash_point=dies)
    (tmp_path / "b").rename(tmp_path / "moved")
    with pytest.raises(StoreError, match="was cut off after all was copied"):
        restore(settings_of(data_dir), tmp_path / "moved")


def test_a_backup_waits_for_a_step_under_way_and_a_step_for_it(data_dir: Path):
    order: list[str] = []

    def looks() -> None:
        with between_steps(data_dir):
            order.append("looked")

    with whole_step(data_dir), whole_step(data_dir):
        looking = threading.Thread(target=looks)
        looking.start()
        looking.join(0.1)
        order.append("stepped")
    looking.join(10)
    assert order == ["stepped", "looked"]
    with (
        whole_step(data_dir),
        pytest.raises(StoreLockedError, match="being changed"),
        between_steps(data_dir, wait_s=0.05),
    ):
        pass
