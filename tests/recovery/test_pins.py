"""A shard that is pinned while its owner writes, flushes and compacts is the shard as it was at one moment."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path

import pytest
import rocksdict

from featurestore.errors import StoreLockedError
from featurestore.recovery.pins import open_pins

PER_COMMIT = 20
SHARD = "online/s/shard-0000"


class Owner(threading.Thread):
    """Writes commits: each its number, and rows that say the same; flushes and compacts all the time."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        options = rocksdict.Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_max_open_files(-1)
        # A table each few commits, and compactions that remove them again.
        options.set_write_buffer_size(64 * 2**10)
        options.set_level_zero_file_num_compaction_trigger(2)
        self._db = rocksdict.Rdict(str(path), options=options)
        self._stopped = threading.Event()
        self.commits = 0

    def run(self) -> None:
        while not self._stopped.is_set():
            number = (self.commits + 1).to_bytes(8, "big")
            batch = rocksdict.WriteBatch(raw_mode=True)
            batch.put(b"n", number)
            for row in range(PER_COMMIT):
                batch.put(b"r%d" % row, number + b"x" * 200)
            self._db.write(batch)
            self.commits += 1

    def stop(self) -> None:
        self._stopped.set()
        self.join(30)
        self._db.close()


def test_a_shard_pinned_beside_its_owner_holds_whole_commits_up_to_one(tmp_path: Path):
    (tmp_path / SHARD).parent.mkdir(parents=True)
    owner = Owner(tmp_path / SHARD)
    owner.start()
    seen, tables = [], set()
    try:
        while len(seen) < 40 or len(tables) < 5:
            with open_pins(tmp_path) as pins:
                before = owner.commits
                pins.pin_shard(SHARD)
                after = owner.commits
                copy = tmp_path / "copy"
                copy.mkdir()
                for name, pin in pins.files.items():
                    (copy / Path(name).name).write_bytes(pin.place.read_bytes()[: pin.size])
                    tables |= {name} if name.endswith(".sst") else set()
            store = rocksdict.Rdict(str(copy), options=rocksdict.Options(raw_mode=True))
            number = store.get(b"n") or bytes(8)
            assert before <= int.from_bytes(number, "big") <= after + 1
            rows = {store.get(b"r%d" % row) for row in range(PER_COMMIT)}
            assert rows <= {number + b"x" * 200, None}, "rows of one commit"
            store.close()
            shutil.rmtree(copy)
            seen.append(number)
    finally:
        owner.stop()
    assert len(set(seen)) > 20, "the owner was writing meanwhile"
    assert not (tmp_path / ".pins" / "online").exists()


def test_a_file_that_is_replaced_or_removed_is_pinned_as_it_was(tmp_path: Path):
    folder = tmp_path / "offline"
    folder.mkdir()
    for name in ("kept", "replaced", "removed", "grown"):
        (folder / name).write_text("old")
    with open_pins(tmp_path) as pins:
        pins.pin_below("offline", lambda name: True)
        (folder / "new").write_text("new")
        (folder / "new").replace(folder / "replaced")
        (folder / "removed").unlink()
        with (folder / "grown").open("a") as file:
            file.write(" and new")
        texts = {name: pin.place.read_text()[: pin.size] for name, pin in pins.files.items()}
        assert texts == {f"offline/{name}": "old" for name in ("kept", "replaced", "removed", "grown")}
        # Looked at once more it is what is there now.
        pins.pin_below("offline", lambda name: True)
        texts = {name: pin.place.read_text()[: pin.size] for name, pin in pins.files.items()}
        assert texts == {"offline/kept": "old", "offline/replaced": "new", "offline/grown": "old"}


def test_one_backup_at_a_time_and_what_a_killed_one_left_goes(tmp_path: Path):
    left = tmp_path / ".pins" / "online" / "old"
    left.parent.mkdir(parents=True)
    left.write_text("left")
    with open_pins(tmp_path), pytest.raises(StoreLockedError, match="being made already"), open_pins(tmp_path):
        pass
    assert not left.exists()
