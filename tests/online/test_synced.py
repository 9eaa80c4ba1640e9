"""The sizes of growing files, taken while RocksDB's threads remove some."""

from __future__ import annotations

import threading
from pathlib import Path

from featurestore.online.synced import growing_sizes


def test_a_log_that_goes_while_sizes_are_taken_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "CURRENT").write_text("MANIFEST-000004\n")
    (tmp_path / "MANIFEST-000004").write_bytes(b"m" * 7)
    (tmp_path / "000009.log").write_bytes(b"l" * 5)
    (tmp_path / "000003.sst").write_bytes(b"t")
    done = threading.Event()

    def flush() -> None:
        while not done.is_set():
            for number in range(20, 40):
                (tmp_path / f"{number:06}.log").touch()
            for number in range(20, 40):
                (tmp_path / f"{number:06}.log").unlink()

    flushing = threading.Thread(target=flush)
    flushing.start()
    try:
        for _ in range(2_000):
            sizes = growing_sizes(tmp_path)
            assert sizes["MANIFEST-000004"] == 7
            assert sizes["000009.log"] == 5
            assert "000003.sst" not in sizes
    finally:
        done.set()
        flushing.join()
