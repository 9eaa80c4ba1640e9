"""What the demo shows while it runs: a live panel on a terminal, a line every two seconds elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from featurestore.cli.demo_progress import WorkerProgress
from featurestore.cli.output import print_line
from featurestore.durations import format_instant

LINE_EVERY_S = 2.0


class Screen:
    """The demo's progress towards `events` messages, while entered. What is printed meanwhile appears above it."""

    def __init__(self, events: int) -> None:
        self._events = events
        self._began_at = time.monotonic()
        self._line_at = self._began_at
        console = Console(file=sys.stdout, highlight=False)
        self._live = Live(console=console, transient=True, refresh_per_second=8) if console.is_terminal else None

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def show(self, sent: int, progress: WorkerProgress, *, now: bool = False) -> None:
        """Tell how far sending and the worker are. now: a line even when the last one is young."""
        if self._live is not None:
            self._live.update(self._panel(sent, progress))
        elif now or time.monotonic() - self._line_at >= LINE_EVERY_S:
            self._line_at = time.monotonic()
            figures = "  ".join(f"{name} {value}" for name, value in _figures(progress))
            print_line(f"{self._line_at - self._began_at:5.1f} s  sent {sent:,}  {figures}")
            sys.stdout.flush()

    def _panel(self, sent: int, progress: WorkerProgress) -> Table:
        panel = Table.grid(padding=(0, 2))
        panel.add_column(justify="right", style="bold")
        panel.add_column(justify="right", min_width=9)
        panel.add_column()
        for name, count in (("sent", sent), ("processed", progress.processed)):
            panel.add_row(name, f"{count:,}", ProgressBar(total=self._events, completed=count, width=40))
        for name, value in _figures(progress)[1:]:
            panel.add_row(name, "", value)
        return panel


def _figures(progress: WorkerProgress) -> list[tuple[str, str]]:
    watermark = "–" if progress.watermark_us is None else format_instant(progress.watermark_us)
    return [
        ("processed", f"{progress.processed:,}"),
        ("late, merged", f"{progress.behind:,}"),
        ("too late", f"{progress.too_late:,}"),
        ("dead letters", f"{progress.dead:,}"),
        ("watermark", watermark),
    ]
