"""The demo, run as a newcomer would: to its end, again in the same folder, and interrupted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import polars as pl
import pytest

from featurestore.examples import BY_NAME

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]


def demo(folder: Path, *options: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "featurestore", "demo", "--dir", str(folder), *options]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder.parent, start_new_session=True
    )


def processes_in(folder: Path) -> list[str]:
    """Command lines of living processes that work in the folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            if os.readlink(entry / "cwd") == str(folder):
                found.append((entry / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue
    return found


def test_the_demo_ends_by_itself_and_works_the_second_time_in_the_same_folder(tmp_path: Path):
    folder = tmp_path / "demo"
    rows = 0
    for _ in range(2):
        run = demo(folder, "--events", "20000")
        out, errors = run.communicate(timeout=120)
        assert run.returncode == 0, errors
        assert "20,000 of 20,000 processed" in out
        assert "card_000001" in out
        assert "20,000 messages read = " in out
        assert re.search(r"[1-9]\d* dead letters \(\d+ (malformed|wrong_type|missing_field|null_field)", out)
        assert processes_in(folder) == []
        now = pl.read_parquet(folder / "data/offline/features/card_activity/v1/tumbling_1m/*.parquet").height
        # The second stream goes on behind the first: its windows are emitted like the first one's.
        assert now > 1.5 * rows
        rows = now


@pytest.mark.parametrize("name", ["clicks", "sensors"])
def test_the_demo_of_an_example_works_in_the_folder_that_init_wrote(name: str, tmp_path: Path):
    example, folder = BY_NAME[name], tmp_path / "demo"
    started = subprocess.run(
        [sys.executable, "-m", "featurestore", "init", str(folder), "--template", name], cwd=tmp_path, check=False
    )
    assert started.returncode == 0
    # Whatever the project's settings have come to say, a demo has nothing to do with a real broker.
    settings = folder / "featurestore.toml"
    settings.write_text(settings.read_text().replace('"embedded"', '"127.0.0.1:1"').replace('"data"', '"elsewhere"'))
    run = demo(folder, "--example", name, "--events", "10000")
    out, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert "10,000 of 10,000 processed" in out
    assert next(iter(example.shown_entities.values()))[0] in out
    assert "10,000 messages read = " in out
    assert "dead letters" in out
    assert f"get {example.shown_view}:" in out
    assert processes_in(folder) == []
    assert not (folder / "elsewhere").exists()
    snapshots = pl.read_parquet(folder / f"data/offline/features/{example.shown_view}/v1/sliding/*.parquet")
    assert snapshots.height > 0


def test_an_interrupt_ends_every_process_of_the_demo(tmp_path: Path):
    folder = tmp_path / "demo"
    run = demo(folder, "--keep-running", "--events", "5000")
    deadline = time.monotonic() + 90
    while len(processes_in(folder)) < 3:
        assert time.monotonic() < deadline
        assert run.poll() is None, run.communicate()
        time.sleep(0.1)
    run.send_signal(signal.SIGINT)
    run.communicate(timeout=60)
    assert run.returncode in (0, 130)
    assert processes_in(folder) == []
