"""The live panel of `featurestore run`: its figures, and the real command on a terminal."""

from __future__ import annotations

import io
import os
import pty
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from rich.console import Console

from featurestore.cli.run_progress import RATE_OVER_S, Rates, RunProgress, add_up, read_run
from featurestore.cli.run_screen import progress_panel
from featurestore.examples.transactions import TransactionStream
from featurestore.observability import read_samples
from tests.conftest import TopicAt
from tests.integration.project import Project
from tests.integration.road import send
from tests.integration.test_road import SHAPE

ONE = """\
# HELP featurestore_events_read_total Messages read from the topic.
# TYPE featurestore_events_read_total counter
featurestore_events_read_total{source="cards"} 1000.0
featurestore_events_late_accepted_total{source="cards"} 7.0
featurestore_events_too_late_total{source="cards"} 4.0
featurestore_dead_letters_total{reason="malformed",source="cards"} 5.0
featurestore_dead_letters_total{reason="wrong_type",source="cards"} 1.0
featurestore_consumer_lag{partition="0",source="cards"} 30.0
featurestore_watermark_seconds{partition="0",source="cards"} 1.7953e+09
featurestore_applied_total{view="risk"} 900.0
featurestore_snapshot_rows_total{view="risk"} 90.0
featurestore_watermark_delay_seconds{view="risk"} 2.5
python_info{version="3"} 1.0
"""
OTHER = ONE.replace("1.7953e+09", "1.7952e+09").replace('partition="0"', 'partition="1"').replace(" 2.5", " 9.5")


def test_processes_add_up_and_the_one_that_is_furthest_behind_counts(tmp_path: Path):
    (tmp_path / "0.prom").write_text(ONE)
    (tmp_path / "1.prom").write_text(OTHER)
    progress = read_run(tmp_path)
    cards, risk = progress.sources["cards"], progress.views["risk"]
    assert (cards.read, cards.late, cards.too_late, cards.dead_letters, cards.lag) == (2_000, 14, 8, 12, 60)
    assert cards.watermark_s == 1_795_200_000.0
    assert (risk.applied, risk.snapshot_rows, risk.delay_s) == (1_800, 180, 9.5)


def at(read: int) -> RunProgress:
    return add_up(read_samples(f'featurestore_events_read_total{{source="cards"}} {read}\n'))


def test_rates_are_of_the_last_seconds_and_survive_a_restart():
    rates = Rates()
    assert rates.note(at(500), 100.0) == {"cards": 0.0}
    assert rates.note(at(700), 101.0) == {"cards": 200.0}
    assert rates.note(at(700), 101.0 + RATE_OVER_S) == {"cards": 0.0}
    assert rates.note(at(0), 102.0 + RATE_OVER_S) == {"cards": 0.0}


def test_the_panel_shows_a_run_before_its_first_event():
    console = Console(width=140, record=True, file=io.StringIO())
    console.print(progress_panel(RunProgress(), {}, 140))
    console.print(progress_panel(add_up(read_samples(ONE)), {"cards": 1234.5}, 140))
    shown = console.export_text()
    assert "events/s" in shown
    assert "1,234" in shown
    assert "2026-11-21T22:26:40Z" in shown


def test_the_panel_cuts_no_figure_off_in_a_terminal_of_80_columns():
    long = ONE.replace("cards", "card_transactions").replace("risk", "merchant_activity").replace("0.0\n", "000000.0\n")
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(progress_panel(add_up(read_samples(long)), {"card_transactions": 123456.7}, console.width))
    shown = console.export_text()
    assert "…" not in shown
    assert {"card_transactions", "merchant_activity", "123,457", "100,000,000", "2026-11-21T22:26:40Z"} <= set(
        shown.split()
    )


@pytest.mark.timeout(90)
@pytest.mark.parametrize("processes", ["1", "2"])
def test_on_a_terminal_the_panel_and_the_log_of_all_processes_are_there(
    any_topic: TopicAt, tmp_path: Path, processes: str
):
    send(any_topic, list(TransactionStream(SHAPE, seed=3))[:500])
    project = Project.create(tmp_path, any_topic.bootstrap_servers, any_topic.topic)
    ours, theirs = pty.openpty()
    worker = subprocess.Popen(
        project.command("run", "pipelines/transactions.py", "--apply", "--processes", processes),
        cwd=project.folder,
        env={**project.environment(), "TERM": "xterm", "COLUMNS": "150"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    shown = bytearray()

    def copy() -> None:
        while True:
            try:
                chunk = os.read(ours, 65_536)
            except OSError:  # the other side is closed
                return
            shown.extend(chunk)

    copying = threading.Thread(target=copy)
    copying.start()
    try:
        until = time.monotonic() + 45
        while not (b"events/s" in shown and b"merchant_activity" in shown and b" 500 " in shown):
            assert time.monotonic() < until, shown.decode(errors="replace")[-3_000:]
            assert worker.poll() is None, shown.decode(errors="replace")[-3_000:]
            time.sleep(0.1)
    finally:
        worker.send_signal(signal.SIGINT)
        code = worker.wait(30)
        copying.join()
        os.close(ours)
    assert code == 0, shown.decode(errors="replace")[-3_000:]
    text = shown.decode(errors="replace")
    assert text.count("worker_finished") == int(processes), text[-3_000:]
    assert sys.executable not in text, "no stack trace"
