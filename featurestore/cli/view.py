"""`featurestore view`: leave a view out of runs for a while, compute it anew, remove what that left behind."""

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.options import DataDir, Json, Yes, confirm, load_settings, open_registry, require_data_dir
from featurestore.cli.output import format_bytes, print_json, print_line, print_table

PAUSE_EXAMPLES = "Example: [bold]featurestore view pause card_activity[/bold]"
RESUME_EXAMPLES = "Example: [bold]featurestore view resume card_activity[/bold]"
RESET_EXAMPLES = (
    "Examples: [bold]featurestore view reset card_activity[/bold]   "
    "[bold]featurestore view reset card_activity --from latest[/bold]   "
    "[bold]featurestore view reset card_activity --yes --json[/bold]"
)
PURGE_EXAMPLES = (
    "Examples: [bold]featurestore view purge card_activity[/bold]   "
    "[bold]featurestore view purge card_activity --yes --json[/bold]"
)

app = typer.Typer(
    help="Pause a view, resume it, compute it anew, remove its old versions.",
    no_args_is_help=True,
)

ViewName = Annotated[str, typer.Argument(metavar="VIEW", help="Name of an applied view.")]


@app.command("pause", epilog=PAUSE_EXAMPLES)
def pause(view: ViewName, data_dir: DataDir = None, json: Json = False) -> None:
    """Leave a view out of the runs that start from now on; a run under way goes on with it.

    Its rows stay and are served, older by the hour. When it is resumed it catches up from where it stopped, as long as
    the topic still has the messages.
    """
    registry = open_registry(data_dir)
    changed = registry.pause(view)
    if json:
        print_json({"view": view, "paused": True, "changed": changed})
    else:
        print_line(
            f"{view} is paused{'' if changed else ' already'}; a running worker takes notice when it is started anew"
        )


@app.command("resume", epilog=RESUME_EXAMPLES)
def resume(view: ViewName, data_dir: DataDir = None, json: Json = False) -> None:
    """Take a paused view into runs again: from the next start on it catches up while the others go on."""
    registry = open_registry(data_dir)
    changed = registry.resume(view)
    if json:
        print_json({"view": view, "paused": False, "changed": changed})
    else:
        print_line(f"{view} is resumed: start the worker anew" if changed else f"{view} is not paused")


class Begin(str, Enum):
    """Where a view begins in its topic."""

    earliest = "earliest"
    latest = "latest"


@app.command("reset", epilog=RESET_EXAMPLES)
def reset(
    view: ViewName,
    begin: Annotated[
        Begin | None,
        typer.Option(
            "--from",
            help="The topic's beginning or its end at the next run; else as the view says.",
            show_default=False,
        ),
    ] = None,
    yes: Yes = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Compute a view anew: a new version of the same definition, from where a new view would begin.

    Until the next run has caught up its reads find nothing, or less than before. The old version's rows and Parquet
    stay where they are (features/VIEW/vN) and are not served any more. No worker may run: its source is locked.
    """
    from featurestore.online.source_store import lock_source

    registry = open_registry(data_dir)
    before = registry.view(view)
    lock = lock_source(_data_dir(data_dir), before.spec.source)
    try:
        start = begin.value if begin else before.spec.start
        place = "the present end" if start == "latest" else "the beginning"
        confirm(f"Compute {view} anew, as a new version from {place} of its topic?", yes)
        registry.versions.begin_anew(view, start)
    finally:
        lock.release()
    after = registry.view(view)
    if json:
        print_json({"view": view, "version": after.version, "before": before.version, "from": after.start})
    else:
        print_line(f"{view} is version {after.version} now; the next run computes it from {place} of the topic")
        print_line(f"  what version {before.version} has left can be removed: featurestore view purge {view}")


@app.command("purge", epilog=PURGE_EXAMPLES)
def purge(view: ViewName, yes: Yes = False, data_dir: DataDir = None, json: Json = False) -> None:
    """Remove what retired versions of a view left behind: online rows, and Parquet files (features/VIEW/vN), for good.

    Says what there is and asks first. Versions that are computed are not touched. No worker may run: its source is
    locked; of a batch view no materialization. Stopped half way, the same command removes the rest.
    """
    from featurestore.cli.disk_screen import shard_progress
    from featurestore.online.source_store import lock_source
    from featurestore.online.steps import whole_step
    from featurestore.worker.purge import find_leftovers, purge_versions

    folder = _data_dir(data_dir)
    registry = open_registry(data_dir)
    registered = registry.any_view(view)
    store = registered.store
    lock = lock_source(folder, store)
    try:
        # Asked under the lock: what is applied from now on has no rows before this is done.
        live = [version.version for version in registry.versions.of(view) if version.retired_at is None]
        with shard_progress("scanning") as tell:
            found = find_leftovers(folder, registered, live, lambda done, shards: tell(store, done, shards))
        if not json and found:
            print_table(
                ["version", "entities", "online", "offline"],
                [
                    [f"{v.version}", v.entities, format_bytes(v.online_bytes), format_bytes(v.offline_bytes)]
                    for v in found
                ],
            )
        if found:
            confirm(f"Remove these versions of {view}? {_kept(live)}.", yes)
            with shard_progress("purging") as tell, whole_step(folder):
                versions = [leftover.version for leftover in found]
                purge_versions(folder, registered, versions, lambda done, shards: tell(store, done, shards))
    finally:
        lock.release()
    if json:
        print_json({"view": view, "version": registered.version, "removed": found})
    elif found:
        print_line(f"removed: {_kept(live)}")
    else:
        print_line(f"nothing is left of retired versions of {view}")


def _kept(live: list[int]) -> str:
    numbers = ", ".join(map(str, live))
    return f"version {numbers} stays" if len(live) == 1 else f"versions {numbers} stay"


def _data_dir(data_dir: Path | None) -> Path:
    return require_data_dir(load_settings(data_dir))
