"""`featurestore offline import`: files of events from before the topic, as the oldest part of a source's archive."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from featurestore.cli.options import DataDir, Json, load_settings, require_data_dir
from featurestore.cli.output import format_bytes, print_json, print_line

if TYPE_CHECKING:
    from featurestore.batch.history import HistoryImport, ImportProgress

EXAMPLES = (
    "Examples: [bold]featurestore offline import transactions 'lake/transactions/*.parquet' --dry-run[/bold]   "
    "[bold]featurestore offline import transactions s3://lake/transactions --before 2026-01-01T00:00:00Z[/bold]"
)


def import_history(
    source: Annotated[str, typer.Argument(metavar="SOURCE", help="A source of an applied view, by name.")],
    files: Annotated[
        list[str],
        typer.Argument(
            metavar="FILES…",
            help="Files, folders or patterns, on disk or in an object store; Parquet, or CSV where they end in .csv.",
        ),
    ],
    before: Annotated[
        str | None,
        typer.Option(
            metavar="TIME", help="Only events older than this; else than all of the archive.", show_default=False
        ),
    ] = None,
    arrival: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="When an event arrived; else it did when it happened.", show_default=False),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Read and check all, write nothing.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Put history under a source's archive: events older than all that its topic has brought.

    Backfills, training sets and every other reader of the archive then begin with it. The files have the columns of the
    source's schema. What is not older than the archive is left out, so nothing counts twice, and importing the same
    files again changes nothing. A row that can't be an event refuses the whole import. Workers go on beside it.
    """
    from featurestore.batch.history import import_history as import_files
    from featurestore.batch.history import plan_import
    from featurestore.batch.history_files import HistoryFiles
    from featurestore.durations import parse_instant_us
    from featurestore.registry import Registry

    settings = load_settings(data_dir)
    folder = require_data_dir(settings)
    registry = Registry.open(settings.registry_place, create=False)
    try:
        spec = registry.source(source)
    finally:
        registry.close()
    before_us = None if before is None else parse_instant_us(before)
    found = HistoryFiles(spec, files, Path.cwd(), arrival)
    with _Bar() as bar:
        act = plan_import if dry_run else import_files
        done = act(folder / "offline", spec, found, before_us, bar.show)
    if json:
        print_json({"dry_run": dry_run, **msgspec.structs.asdict(done)})
    else:
        _tell(done, dry_run)


def _tell(done: "HistoryImport", dry_run: bool) -> None:
    print_line(f"{done.rows_read:,} rows in {done.files:,} files ({format_bytes(done.size_bytes)})")
    if done.rows_left_out:
        known = "" if done.history_begins is None else f", history that was imported at {done.history_begins}"
        print_line(
            f"left out: {done.rows_left_out:,} rows not before {done.before} "
            f"(the topic's archive begins at {done.archive_begins}{known})"
        )
    if done.generation is None:
        print_line("nothing to import: no row is older")
        return
    told = f"{done.rows:,} events from {done.earliest} to {done.latest}"
    if dry_run:
        print_line(f"would be imported: {told}")
    else:
        print_line(f"imported: {told} as {done.generation}, {done.segments:,} files in {done.partitions} partitions")


class _Bar:
    """How far it is, on stderr, at a terminal alone."""

    def __enter__(self) -> "_Bar":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        console = Console(stderr=True)
        self._bars = Progress(*columns, console=console, transient=True, disable=not sys.stderr.isatty())
        self._task = self._bars.add_task("", total=None)
        self._bars.start()
        return self

    def show(self, progress: "ImportProgress") -> None:
        """Draw it."""
        text = f"{progress.step}: rows"
        self._bars.update(self._task, description=text, completed=progress.rows, total=progress.total)

    def __exit__(self, *error: object) -> None:
        self._bars.stop()
