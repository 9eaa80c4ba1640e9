"""What `featurestore run` shows on a terminal: a live panel under the log."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from featurestore.cli.output import make_table
from featurestore.cli.run_progress import Rates, RunProgress, read_run
from featurestore.cli.table_layout import lay_out
from featurestore.durations import format_instant

REFRESH_PER_S = 2.0
COPY_TIMEOUT_S = 2.0
LONG_S = 86_400.0
SOURCE_COLUMNS = ("source", "events/s", "read", "lag", "late, merged", "too late", "dead letters", "watermark")
VIEW_COLUMNS = ("view", "applied", "snapshot rows", "watermark behind the clock")


class RunScreen:
    """A panel of the run's progress on stderr, while entered. Log lines of all processes appear above it.

    metrics_dir: where the processes are to write their metrics. stderr: a descriptor for the log of child processes.
    """

    def __init__(self) -> None:
        self.metrics_dir = Path(tempfile.mkdtemp(prefix="featurestore-metrics-"))
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
        # Under another name nobody writes into it any more; else a thread would fill it while it is removed.
        gone = self.metrics_dir.rename(self.metrics_dir.with_name(f"{self.metrics_dir.name}-gone"))
        shutil.rmtree(gone, ignore_errors=True)

    def _copy_log(self) -> None:
        with os.fdopen(self._read_end, errors="replace") as lines:
            for line in lines:
                self._console.print(Text.from_ansi(line.rstrip("\n")), soft_wrap=True)

    def _panel(self) -> Group:
        progress = read_run(self.metrics_dir)
        return progress_panel(progress, self._rates.note(progress), self._console.width)


def progress_panel(progress: RunProgress, rates: dict[str, float], width: int) -> Group:
    """Tables of sources and views; nothing before there are any. rates: messages per second by source.

    width: of the terminal, in characters; what does not fit side by side goes below.
    """
    if not progress.sources:
        return Group()
    sources = []
    for name, source in sorted(progress.sources.items()):
        counts = (source.read, source.lag, source.late, source.too_late, source.dead_letters)
        watermark = "–" if source.watermark_s is None else format_instant(int(source.watermark_s) * 1_000_000)
        sources.append([name, f"{rates.get(name, 0):,.0f}", *(f"{count:,}" for count in counts), watermark])
    views = [
        [name, f"{view.applied:,}", f"{view.snapshot_rows:,}", _delay(view.delay_s)]
        for name, view in sorted(progress.views.items())
    ]
    return Group(*_tables(SOURCE_COLUMNS, sources, width), *_tables(VIEW_COLUMNS, views, width))


def _tables(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> list[Table]:
    numeric = [bool(position) for position in range(len(columns))]
    return [make_table(columns, rows, numeric, placed) for placed in lay_out(columns, rows, 1, width)]


def _delay(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds:,.1f} s" if seconds < LONG_S else "over a day"
