"""`featurestore offline`: what lies in the offline store, and how it stays in order."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from featurestore.cli import offline_iceberg, offline_import
from featurestore.cli.options import DataDir, Json, Yes, confirm, load_settings, require_data_dir
from featurestore.cli.output import format_bytes, print_json, print_line, print_table

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

    from featurestore.cli.offline_datasets import PlannedRemoval
    from featurestore.offline.compaction import Job
    from featurestore.offline.retention import Removal

LS_EXAMPLES = "Examples: [bold]featurestore offline ls[/bold]   [bold]featurestore offline ls --json[/bold]"
COMPACT_EXAMPLES = (
    "Examples: [bold]featurestore offline compact[/bold]   "
    "[bold]featurestore offline compact transactions --dry-run[/bold]"
)
PRUNE_EXAMPLES = (
    "Examples: [bold]featurestore offline prune transactions --older-than 90d --dry-run[/bold]   "
    "[bold]featurestore offline prune card_activity --older-than 365d --yes[/bold]"
)

VERIFY_EXAMPLES = (
    "Examples: [bold]featurestore offline verify --sample 1000[/bold]   "
    "[bold]featurestore offline verify card_activity --json[/bold]"
)

app = typer.Typer(
    help="What lies in the offline store: list, import, compact, prune, verify, Iceberg tables.", no_args_is_help=True
)

Names = Annotated[
    list[str] | None,
    typer.Argument(metavar="[SOURCE|VIEW]…", help="Of these alone; of all without.", show_default=False),
]
PrunedNames = Annotated[list[str], typer.Argument(metavar="SOURCE|VIEW…", help="Sources and views by name.")]
Grace = Annotated[
    str,
    typer.Option("--grace", help="How long old files stay for readers that have listed them and still open them."),
]


@app.command("ls", epilog=LS_EXAMPLES)
def ls(data_dir: DataDir = None, json: Json = False) -> None:
    """List the datasets of the offline store: files, rows, bytes and the span of time that they cover.

    The span is of event_time for events and late events, of arrival_time for dead letters, of window_end for snapshots.
    "compacted" is how many files featurestore offline compact would leave. Figures come from the footers of the Parquet
    files: no data is read, and a running worker is not disturbed.
    """
    from featurestore.offline.inventory import list_datasets

    root = require_data_dir(load_settings(data_dir)) / "offline"
    datasets = list_datasets(root)
    if json:
        print_json({"root": root, "datasets": datasets})
        return
    if not datasets:
        print_line("nothing is written yet: featurestore run MODULE")
        return
    print_table(
        ["dataset", "files", "compacted", "rows", "size", "from", "to", "of"],
        [
            [
                d.dataset,
                d.files,
                d.files_compacted,
                d.rows,
                format_bytes(d.size_bytes),
                _time(d.earliest),
                _time(d.latest),
                d.time_column,
            ]
            for d in datasets
        ],
    )


app.command("import", epilog=offline_import.EXAMPLES)(offline_import.import_history)
app.command("iceberg", epilog=offline_iceberg.EXAMPLES)(offline_iceberg.iceberg)


@app.command("compact", epilog=COMPACT_EXAMPLES)
def compact(
    names: Names = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, change nothing.")] = False,
    grace: Grace = "30s",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make few large files of many small ones, sorted by join key and time. Workers and readers go on beside it.

    Only files are touched that no worker writes again. The rows stay the same. A compaction that was killed is finished
    by the next one.
    """
    from featurestore.cli.offline_datasets import choose_datasets
    from featurestore.durations import parse_duration_us
    from featurestore.offline.compaction import compact as compact_files

    settings = load_settings(data_dir)
    grace_s = parse_duration_us(grace) / 1e6
    chosen = choose_datasets(settings, names or [])
    if dry_run:
        _tell_jobs(chosen.plan_compaction(), json)
        return
    with _progress() as progress:
        task = progress.add_task("compacting", total=None)

        def wait(seconds: float) -> None:
            progress.update(task, description=f"waiting {seconds:g} s for readers")
            time.sleep(seconds)

        done = compact_files(
            chosen.root,
            chosen.plan_compaction,
            grace_s=grace_s,
            wait=wait,
            on_plan=lambda jobs: progress.update(task, total=len(jobs)),
            on_job=lambda job: progress.update(task, advance=1, description=f"compacting {job.dataset}"),
        )
    if json:
        print_json({"root": chosen.root, "compacted": done})
    elif done:
        print_table(
            ["dataset", "files", "now", "rows", "size", "now"],
            [
                [
                    d.dataset,
                    d.files_before,
                    d.files_after,
                    d.rows,
                    format_bytes(d.bytes_before),
                    format_bytes(d.bytes_after),
                ]
                for d in done
            ],
        )
    else:
        print_line("nothing to compact")


@app.command("prune", epilog=PRUNE_EXAMPLES)
def prune(
    names: PrunedNames,
    older_than: Annotated[str, typer.Option("--older-than", help="Age by event time (window_end of snapshots): 90d.")],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would go, remove nothing.")] = False,
    yes: Yes = False,
    grace: Grace = "30s",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Remove what is older: archive files of sources with their late events and dead letters, snapshots of views.

    Whole files go, each when its newest row is older. What open windows of a source's views still reach, the newest
    file of each partition, and snapshots that are not final stay. The store remembers from when on all is there.
    """
    from featurestore.cli.offline_datasets import choose_datasets
    from featurestore.durations import parse_duration_us
    from featurestore.offline.retention import prune as prune_files

    settings = load_settings(data_dir)
    older_than_us, grace_s = parse_duration_us(older_than), parse_duration_us(grace) / 1e6
    chosen = choose_datasets(settings, names)
    now = datetime.now(timezone.utc)
    planned = chosen.plan_removals(older_than_us, now)
    files = sum(one.removal.files for one in planned)
    if not json:
        _tell_removals(planned)
    if not dry_run and files:
        confirm(f"Remove {files:,} files for good?", yes)

        def plan() -> "list[Removal]":
            return [one.removal for one in chosen.plan_removals(older_than_us, now)]

        with _progress() as progress:
            progress.add_task(f"waiting {grace_s:g} s for readers", total=None)
            prune_files(chosen.root, plan, grace_s=grace_s)
    if json:
        print_json({"root": chosen.root, "removed": not dry_run, "datasets": [_removal(one) for one in planned]})
    else:
        print_line("nothing was removed" if dry_run or not files else f"{files:,} files were removed")


@app.command("verify", epilog=VERIFY_EXAMPLES)
def verify(
    views: Annotated[
        list[str] | None, typer.Argument(metavar="[VIEW]...", help="These views; all without.", show_default=False)
    ] = None,
    sample: Annotated[
        int | None,
        typer.Option("--sample", min=1, help="So many entities of each view; all without.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Recompute snapshots and online values from the event archive, and compare them with what is stored.

    First the files themselves are held against their checksums (with --sample, the footers alone); what is damaged is
    named with the way out. Compared are windows that are final and, when no worker is reading, the online values as of
    the newest event. Floats may differ by 1e-9 of the sum of the absolute values in their window. Exits with 1 when
    anything differs.
    """
    from featurestore.cli.verify import verify_views

    settings = load_settings(data_dir)
    require_data_dir(settings)
    with _progress() as progress:
        tasks: dict[str, TaskID] = {}

        def on_progress(name: str, share: float) -> None:
            if name not in tasks:
                tasks[name] = progress.add_task(f"recomputing {name}", total=1.0)
            progress.update(tasks[name], completed=share)

        verified = verify_views(settings, views or [], sample, on_progress)
    comparisons = [comparison for one in verified for comparison in one.comparisons.values()]
    if json:
        print_json({"views": [one.document() for one in verified]})
    else:
        columns = ["view", "dataset", "feature", "compared", "equal", "different", "missing", "extra"]
        print_table(columns, [list(msgspec.structs.astuple(comparison)) for comparison in comparisons], key_columns=3)
        for one in verified:
            print_line(one.sentence())
    if not all(comparison.is_clean for comparison in comparisons):
        raise typer.Exit(1)


def _tell_jobs(jobs: "list[Job]", json: bool) -> None:
    if json:
        documents = [
            {"dataset": job.dataset, "files": job.files, "files_after": len(job.merges), "size_bytes": job.size_bytes}
            for job in jobs
        ]
        print_json({"would_compact": documents})
    elif jobs:
        rows = [[job.dataset, job.files, len(job.merges), format_bytes(job.size_bytes)] for job in jobs]
        print_table(["dataset", "files", "would be", "size"], rows)
    else:
        print_line("nothing to compact")


def _tell_removals(planned: "list[PlannedRemoval]") -> None:
    rows = [list(_removal(one).values()) for one in planned]
    for row in rows:
        row[4] = format_bytes(row[4])
    print_table(["dataset", "files", "rows", "dead letters", "size", "complete since", "older than", "held by"], rows)


def _removal(planned: "PlannedRemoval") -> dict[str, Any]:
    removal = planned.removal
    return {
        "dataset": removal.dataset,
        "files": removal.files,
        "rows": sum(removal.rows.values()),
        "dead_letters": sum(removal.dead_letters.values()),
        "size_bytes": removal.size_bytes,
        "complete_since": _time(removal.complete_since),
        "older_than": _time(planned.before.replace(microsecond=0)),
        "held_by": planned.held_by,
    }


@contextmanager
def _progress() -> "Iterator[Progress]":
    """On stderr, at a terminal alone."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as progress:
        yield progress


def _time(instant: datetime | None) -> str | None:
    """For people: whole seconds keep a table in a terminal of 80 columns; --json has them all."""
    return None if instant is None else instant.isoformat(timespec="seconds").replace("+00:00", "Z")
