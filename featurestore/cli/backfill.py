"""`featurestore backfill`: fill new views from the archive."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.git_revision import git_revision
from featurestore.cli.options import DataDir, Json, Modules, Yes, confirm, load_settings, require_data_dir
from featurestore.cli.output import format_bytes, print_json, print_line, print_table, warn

if TYPE_CHECKING:
    from featurestore.worker.backfill_plan import SourceBackfill

EXAMPLES = (
    "Examples: [bold]featurestore backfill pipelines.transactions --dry-run[/bold]   "
    "[bold]featurestore backfill pipelines.transactions --apply --processes 2[/bold]   "
    "[bold]featurestore backfill pipelines.transactions --view merchant_activity --json[/bold]"
)


def backfill(
    context: typer.Context,
    modules: Modules,
    view: Annotated[
        list[str] | None,
        typer.Option("--view", metavar="VIEW", help="Fill this one; repeat it for more. Else all that have never run."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say how much would be read.")] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Worker processes on this machine; overrides \\[worker] processes.", show_default=False
        ),
    ] = None,
    apply: Annotated[bool, typer.Option("--apply", help="Apply changed definitions before.")] = False,
    abandon: Annotated[bool, typer.Option("--abandon", help="Give up a backfill, and all that it has done.")] = False,
    yes: Yes = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Fill views that have never run from the archive, beside a running worker.

    Nothing of them is served before all is in. Stopped or killed, it goes on where it was. When it is through, the rows
    are taken in at once, or by the worker's next start with these modules; from there on it reads the topic.
    """
    # Before polars is imported: commits are many and small, and each process has a core.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from featurestore.worker.backfill import abandon as give_up
    from featurestore.worker.backfill import backfill as fill
    from featurestore.worker.backfill import plan_backfill
    from featurestore.worker.backfill_plan import BackfillOptions

    settings = load_settings(data_dir)
    require_data_dir(settings)
    options = BackfillOptions(
        tuple(modules),
        Path.cwd(),
        tuple(view or ()),
        processes or settings.worker.processes,
        apply,
        context.find_root().params["log_level"],
        revision=git_revision(Path.cwd()) if apply else None,
    )
    if abandon:
        confirm("Give up the backfills of these modules' sources, and all that they have done?", yes)
        given_up = give_up(settings, options)
        print_json({"abandoned": given_up}) if json else print_line(f"given up: {', '.join(given_up) or 'none'}")
        return
    if dry_run:
        _print(plan_backfill(settings, options), json=json, dry_run=True)
        return
    if sys.stderr.isatty():
        from featurestore.cli.run_screen import RunScreen

        with RunScreen() as screen:
            done = fill(settings, replace(options, metrics_dir=screen.metrics_dir, stderr=screen.stderr))
    else:
        done = fill(settings, options)
    _print(done, json=json, dry_run=False)
    if not done or not all(source.finished for source in done):
        raise typer.Exit(1)


def _print(sources: "Sequence[SourceBackfill]", *, json: bool, dry_run: bool) -> None:
    for partial in (partial for source in sources for partial in source.partial):
        since = partial.complete_from
        warn(
            f"the archive may lack events {', '.join(partial.missing)}: windows of {partial.view} "
            + ("over a lifetime are never complete" if since is None else f"are complete from {since} on")
        )
    if json:
        print_json({"dry_run": dry_run, "sources": sources})
        return
    if dry_run:
        print_table(
            ("source", "generation", "partition", "from offset", "to", "events", "bytes"),
            [
                (
                    source.source,
                    part.generation,
                    part.partition,
                    part.first,
                    part.end,
                    part.events,
                    format_bytes(part.bytes),
                )
                for source in sources
                for part in source.to_read
            ],
            key_columns=3,
        )
    for source in sources:
        names = ", ".join(source.views)
        if dry_run:
            print_line(f"{names}: at most {source.events:,} events would be read")
        elif not source.finished:
            print_line(f"{names}: stopped; the same command goes on from there")
        elif source.taken_in:
            rows = ", ".join(f"{view} {count:,} entities" for view, count in source.rows.items())
            print_line(f"{names}: filled from {source.events:,} events: {rows}")
        else:
            print_line(f"{names}: filled; a worker holds the source: start it anew with these modules to take it in")
