from __future__ import annotations

import os
from pathlib import Path

import pytest

from featurestore.errors import StoreFullError
from featurestore.offline.atomic import write_atomically


def test_the_content_is_durable_before_the_rename_and_the_folder_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = []

    def record_fsync(descriptor: int) -> None:
        target = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        steps.append(("fsync", target.name, (tmp_path / "new" / "a.parquet").exists()))

    monkeypatch.setattr(os, "fsync", record_fsync)
    write_atomically(tmp_path / "new" / "a.parquet", lambda file: file.write(b"x"))
    assert steps == [
        ("fsync", tmp_path.name, False),
        ("fsync", ".a.parquet.tmp", False),
        ("fsync", "new", True),
    ]


def test_a_full_disk_leaves_the_old_file_and_no_half_one(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    path.write_bytes(b"old")
    (tmp_path / ".a.parquet.tmp").symlink_to("/dev/full")
    with pytest.raises(StoreFullError, match=str(path)) as caught:
        write_atomically(path, lambda file: file.write(b"new"))
    assert caught.value.hint is not None
    assert [(child.name, child.read_bytes()) for child in tmp_path.iterdir()] == [("a.parquet", b"old")]


def test_other_errors_of_the_disk_are_not_called_a_full_one(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(FileExistsError):
        write_atomically(tmp_path / "file" / "a.parquet", lambda file: file.write(b"new"))
