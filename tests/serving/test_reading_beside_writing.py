"""Reads while a worker writes, compacts, is killed and starts again: no wrong value, no lasting error."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.serving.reader_process import Seen
from tests.serving.support import NOON, ROOT, Writer, event, register, serve_command, write_store

OTHERS = 300
CARDS = ["c1", *(f"other{n}" for n in range(0, OTHERS, 15))]
# A start writes the log that a killed worker left into a table, and four tables of the first level are compacted.
KILLS = 7
COMMITS = 25
FAILING_S_MAX = 2.0


def files_of_level(data_dir: Path) -> list[str]:
    return sorted(path.name for path in (data_dir / "online").rglob("*.sst"))


@pytest.mark.slow
def test_reads_from_two_processes_stay_right_while_the_worker_is_killed_and_compacts(tmp_path: Path) -> None:
    register(tmp_path)
    write_store(tmp_path, [event(card, at_us=NOON) for card in CARDS])
    write = [sys.executable, "-m", "tests.serving.writer_process", str(tmp_path), "c1", str(OTHERS)]
    with serve_command(tmp_path, "--clock", "event", "--processes", "2") as (server, url):
        readers = [
            subprocess.Popen(
                [sys.executable, "-m", "tests.serving.reader_process", url, *cards],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                cwd=ROOT,
            )
            for cards in (CARDS, CARDS[:1])  # a large read and a small one
        ]
        tables: set[str] = set()
        for _ in range(KILLS):
            worker = subprocess.Popen(write, stdout=subprocess.PIPE, cwd=ROOT)
            assert worker.stdout is not None
            for _ in range(COMMITS):
                assert worker.stdout.readline() == b"committed\n"
            worker.kill()
            worker.communicate()
            tables.update(files_of_level(tmp_path))
        seen = [msgspec.json.decode(reader.communicate()[0], type=Seen) for reader in readers]
        assert server.poll() is None
        server.send_signal(signal.SIGTERM)
        assert server.wait(15) == 0
        log = server.stderr.read() if server.stderr is not None else ""
    writer = Writer(tmp_path)
    stored = {card: writer.events_of(card) for card in CARDS}
    writer.close()
    assert tables - set(files_of_level(tmp_path)), "nothing was compacted: the test has not shown it"
    for reader in seen:
        assert reader.wrong == []
        assert reader.answers > 200
        assert reader.longest_failure_s < FAILING_S_MAX, f"{reader.failures} failures\n{log}"
        assert all(0 < count <= stored[card] for card, count in reader.counts.items())
    assert stored["c1"] > KILLS * COMMITS
    assert seen[0].counts["c1"] > (KILLS - 1) * COMMITS, "the readers kept up with the commits"
