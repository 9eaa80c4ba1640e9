"""What `featurestore run` shows on a terminal: a live panel under the log."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
from pathlib import Path
from types import TracebackType

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from featurestore.cli.run_progress import Rates, RunProgress, read_run
from featurestore.durations import format_instant

REFRESH_PER_S = 2.0
COPY_TIMEOUT_S = 2.0
LONG_S = 86_400.0


class RunScreen:
    """A panel of the run's progress on stderr, while entered. Log lines of all processes appear above it.

    metrics_dir: where the processes are to write their metrics. stderr: a descriptor for the log of child processes.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="featurestore-metrics-")
        self.metrics_dir = Path(self._folder.name)
        self._read_end, self.stderr = os.pipe()
        self._rates = Rates()
        self._console = Console(file=sys.stderr, highlight=False)
        self._live = Live(
            console=self._console,
            get_renderable=self._panel,
            refresh_per_second=REFRESH_PER_S,
            transient=True,
            redirect_stdout=False,
        )
        self._copying = threading.Thread(target=self._copy_log, name="copy-log", daemon=True)

    def __enter__(self) -> RunScreen:
        self._copying.start()
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self.stderr)
        # What has not ended with the run must not keep the command.
        self._copying.join(COPY_TIMEOUT_S)
        self._live.stop()
        self._folder.cleanup()

    def _copy_log(self) -> None:
        with os.fdopen(self._read_end, errors="replace") as lines:
            for line in lines:
                self._console.print(Text.from_ansi(line.rstrip("\n")), soft_wrap=True)

    def _panel(self) -> Group:
        progress = read_run(self.metrics_dir)
        return progress_panel(progress, self._rates.note(progress))


def progress_panel(progress: RunProgress, rates: dict[str, float]) -> Group:
    """Two tables: sources and views; nothing before there are any. rates: messages per second by source."""
    if not progress.sources:
        return Group()
    sources = _table("source", "events/s", "read", "lag", "late, merged", "too late", "dead letters", "watermark")
    for name, source in sorted(progress.sources.items()):
        counts = (source.read, source.lag, source.late, source.too_late, source.dead_letters)
        watermark = "–" if source.watermark_s is None else format_instant(int(source.watermark_s) * 1_000_000)
        sources.add_row(name, f"{rates.get(name, 0):,.0f}", *(f"{count:,}" for count in counts), watermark)
    views = _table("view", "applied", "snapshot rows", "watermark behind the clock")
    for name, view in sorted(progress.views.items()):
        views.add_row(name, f"{view.applied:,}", f"{view.snapshot_rows:,}", _delay(view.delay_s))
    return Group(sources, views)


def _table(*columns: str) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for position, column in enumerate(columns):
        table.add_column(column, justify="right" if position else "left", no_wrap=True)
    return table


def _delay(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:,.1f} s" if seconds < LONG_S else "over a day"
