"""`featurestore rebuild`: make online stores again from the archive, and prove that they are equal to it."""

import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import msgspec
import typer

from featurestore.cli.options import DataDir, Json, Yes, confirm, load_settings, open_registry, require_data_dir
from featurestore.cli.output import print_json, print_line, print_table, warn

if TYPE_CHECKING:
    from featurestore.cli.verify_view import Verified
    from featurestore.recovery.rebuild import RebuiltSource
    from featurestore.registry import Registry

EXAMPLES = (
    "Examples: [bold]featurestore rebuild transactions[/bold]   "
    "[bold]featurestore rebuild transactions --processes 2 --yes --json[/bold]   "
    "[bold]featurestore rebuild transactions --snapshots[/bold]"
)


def rebuild(
    context: typer.Context,
    sources: Annotated[list[str], typer.Argument(metavar="SOURCE…", help="Applied sources by name.")],
    snapshots: Annotated[
        bool,
        typer.Option("--snapshots", help="Make final snapshots again too: for damaged or lost snapshot files."),
    ] = False,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Worker processes on this machine; overrides \\[worker] processes.", show_default=False
        ),
    ] = None,
    grace: Annotated[
        str,
        typer.Option("--grace", help="How long replaced snapshot files stay for readers that have listed them."),
    ] = "30s",
    yes: Yes = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Make the online store of a source again from the archive; the next run reads the topic on from there.

    Works without the old store, which is set aside, not removed. Snapshots that are final stay as they are; those that
    could still be corrected are replaced. At the end everything is recomputed from the archive another way and
    compared, as featurestore offline verify does: exit 1 when anything differs. No worker may run. Killed on its way,
    the same command goes on.
    """
    # Before polars is imported: commits are many and small, and each process has a core.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from featurestore.durations import parse_duration_us
    from featurestore.recovery.rebuild import RebuildOptions
    from featurestore.recovery.rebuild import rebuild as make_again
    from featurestore.worker.archive_run import ArchiveRunOptions

    settings = load_settings(data_dir)
    require_data_dir(settings)
    run = ArchiveRunOptions(Path.cwd(), processes or settings.worker.processes, context.find_root().params["log_level"])
    options = RebuildOptions(run, snapshots, parse_duration_us(grace) / 1e6)
    registry = open_registry(data_dir)
    try:
        confirm(f"Set the online store of {', '.join(sources)} aside, and make it again from the archive?", yes)
        if sys.stderr.isatty():
            from featurestore.cli.run_screen import RunScreen

            with RunScreen() as screen:
                shown = replace(run, metrics_dir=screen.metrics_dir, stderr=screen.stderr)
                done = make_again(settings, registry, sources, replace(options, run=shown))
        else:
            done = make_again(settings, registry, sources, options)
        folder = settings.store.data_dir
        verified = [one for source in done if source.finished for one in _verify(folder, registry, source)]
    finally:
        registry.close()
    clean = all(comparison.is_clean for one in verified for comparison in one.comparisons.values())
    _tell(done, verified, clean, json=json)
    if not clean or not all(source.finished for source in done):
        raise typer.Exit(1)


def _verify(data_dir: Path, registry: "Registry", source: "RebuiltSource") -> "list[Verified]":
    from featurestore.cli.verify import verify_version

    spec = registry.source(source.source)
    views = [view for view in registry.live_views() if view.reference in source.views]
    return [verify_version(data_dir, view, spec, None, lambda name, share: None) for view in views]


def _tell(done: "Sequence[RebuiltSource]", verified: "Sequence[Verified]", clean: bool, *, json: bool) -> None:
    for source in done:
        if source.finished and not source.events:
            warn(f"nothing of {source.source} is archived: the next run reads the topic from its beginning")
        for hole in source.holes:
            warn(f"the archive of {source.source} lacks {hole}")
        for path in source.damaged:
            warn(f"{path} was damaged; what it had is made again as far as the archive has its events")
        for partial in source.partial:
            since = partial.complete_from
            warn(
                f"the archive may lack events {', '.join(partial.missing)}: windows of {partial.view} "
                + ("over a lifetime are never complete" if since is None else f"are complete from {since} on")
            )
    if json:
        print_json({"sources": done, "equal": clean, "verified": [one.document() for one in verified]})
        return
    for source in done:
        if not source.finished:
            print_line(f"{source.source}: stopped; the same command goes on from there")
            continue
        rows = ", ".join(f"{view} {count:,} entities" for view, count in source.entities.items())
        print_line(f"{source.source}: made again from {source.events:,} events: {rows}")
        print_line(
            f"  {source.snapshot_rows:,} snapshot rows were replaced; final ones before them stayed as they were"
        )
        if source.set_aside is not None:
            print_line(f"  what was there before lies in {source.set_aside}: remove it when it is not needed any more")
    comparisons = [comparison for one in verified for comparison in one.comparisons.values()]
    different = [comparison for comparison in comparisons if not comparison.is_clean]
    if different:
        columns = ["view", "dataset", "feature", "compared", "equal", "different", "missing", "extra"]
        print_table(columns, [list(msgspec.structs.astuple(comparison)) for comparison in different], key_columns=3)
    for one in verified:
        print_line(one.sentence())
    compared = sum(comparison.compared for comparison in comparisons)
    if verified and not different:
        print_line(f"equal: {compared:,} values, online and in snapshots, are those recomputed from the archive")
