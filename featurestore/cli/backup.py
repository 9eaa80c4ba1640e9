"""`featurestore backup` and `restore`: a copy of everything in the data_dir while workers run, and its way back."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.options import DataDir, Json, Yes, confirm, load_settings, require_data_dir
from featurestore.cli.output import format_bytes, print_json, print_line, warn

BACKUP_EXAMPLES = (
    "Examples: [bold]featurestore backup /backups/monday[/bold]   "
    "[bold]featurestore backup /backups/tuesday --base /backups/monday --json[/bold]"
)
RESTORE_EXAMPLES = (
    "Examples: [bold]featurestore restore /backups/monday[/bold]   "
    "[bold]featurestore restore /backups/monday --data-dir elsewhere[/bold]   "
    "[bold]featurestore restore /backups/monday --yes --json[/bold]"
)

Folder = Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder of the backup.")]


def backup(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A new or empty folder, best on another disk.")],
    base: Annotated[
        Path | None,
        typer.Option(
            "--base",
            metavar="EARLIER",
            help="An earlier backup on the same disk: files that have not changed are linked to it, not copied.",
            show_default=False,
        ),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Copy the whole data_dir as it is at one moment: online and offline stores, registry, journals. Workers go on.

    A run on a restored backup reads on from that moment and comes to what an undisturbed run has, as long as the topics
    still have the messages since then. A registry in PostgreSQL is not in it: dump it after the backup.
    """
    from featurestore.recovery.backup import backup as make_backup

    settings = load_settings(data_dir)
    require_data_dir(settings)
    with _progress("copying") as on_bytes:
        report = make_backup(settings, folder, base=base, on_bytes=on_bytes)
    if not report.registry:
        warn("the registry is in PostgreSQL, and not in this backup: dump it now, after the stores")
    if json:
        print_json(report)
    else:
        unchanged = f", {report.linked:,} of them unchanged and linked" if report.linked else ""
        print_line(
            f"{report.folder}: {report.files:,} files{unchanged}, {format_bytes(report.size_bytes)}, "
            f"as of {report.made_at}"
        )


def restore(folder: Folder, yes: Yes = False, data_dir: DataDir = None, json: Json = False) -> None:
    """Put a backup in the place of the data_dir. Every file is held against its checksum before anything is touched.

    No worker may run. What is in the data_dir is set aside in it, not removed: with something there, it asks. Killed on
    its way, the same command goes on; until then nothing runs on the data_dir.
    """
    from featurestore.recovery.manifest import read_manifest
    from featurestore.recovery.restore import holds_data
    from featurestore.recovery.restore import restore as put_back

    settings = load_settings(data_dir)
    made_at = read_manifest(folder).made_at
    if holds_data(settings.store.data_dir):
        confirm(f"Set aside what is in {settings.store.data_dir}, and put the backup of {made_at} in its place?", yes)
    with _progress("checking and copying") as on_bytes:
        report = put_back(settings, folder, on_bytes=on_bytes)
    if not report.registry:
        warn("the registry is in PostgreSQL, and was not in this backup: restore its dump of the same time")
    if json:
        print_json(report)
        return
    print_line(
        f"{settings.store.data_dir}: {report.files:,} files, {format_bytes(report.size_bytes)}, as of {report.made_at}"
    )
    if report.set_aside is not None:
        print_line(f"  what was there before lies in {report.set_aside}: remove it when it is not needed any more")
    print_line("  the next run reads on from there")


@contextmanager
def _progress(verb: str) -> Iterator[Callable[[int, int], None]]:
    """On stderr, at a terminal alone."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        task = progress.add_task(verb, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)
