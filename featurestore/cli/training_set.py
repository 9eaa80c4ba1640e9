"""`featurestore training-set`: features as they stood at each row of a spine."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from featurestore.cli.options import DataDir, Json, load_settings, require_data_dir
from featurestore.cli.output import print_json, print_line, warn

if TYPE_CHECKING:
    from featurestore.training.history import JoinProgress

EXAMPLES = (
    "Examples: [bold]featurestore training-set --spine labels.parquet --features card_activity:count_10m "
    "--features card_activity:count_24h --out training.parquet[/bold]   "
    "[bold]featurestore training-set --spine labels.csv --features card_activity:count_1h --knowledge arrival "
    "--out training/[/bold]   "
    "[bold]featurestore training-set --spine labels.parquet --as-of-manifest training.parquet.manifest.json "
    "--out again.parquet[/bold]"
)


def training_set(
    spine: Annotated[Path, typer.Option("--spine", help="Parquet or CSV: join keys, instants, labels.")],
    out: Annotated[Path, typer.Option("--out", help="NAME.parquet for one file; another name for a folder of parts.")],
    features: Annotated[
        list[str] | None, typer.Option("--features", metavar="VIEW:FEATURE", help="Repeat it, or separate by commas.")
    ] = None,
    knowledge: Annotated[
        Literal["event", "arrival"],
        typer.Option(help="What counts: all that happened before the instant, or only what had arrived by it."),
    ] = "event",
    knowledge_time: Annotated[
        str | None, typer.Option(metavar="TIME", help="Leave out events that arrived after it.", show_default=False)
    ] = None,
    as_of_manifest: Annotated[
        Path | None, typer.Option(help="Make the training set of this manifest again.", show_default=False)
    ] = None,
    event_timestamp: Annotated[str, typer.Option(help="The spine's column of instants.")] = "event_timestamp",
    full_feature_names: Annotated[bool, typer.Option(help="Columns are named VIEW__FEATURE.")] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Join features to a spine, each as it stood at its row's instant, and write a manifest beside the result."""
    from featurestore.training.manifest import read_manifest
    from featurestore.training.output import manifest_path, write_training_set
    from featurestore.training.training_set import TrainingSetRequest, make_training_set

    wanted = tuple(name for given in features or () for name in given.split(",") if name)
    if as_of_manifest is not None and (wanted or knowledge != "event" or knowledge_time is not None):
        raise typer.BadParameter("the manifest says what is joined", param_hint="--as-of-manifest")
    settings = load_settings(data_dir)
    folder = require_data_dir(settings)
    request = TrainingSetRequest(spine, wanted, knowledge, knowledge_time, event_timestamp, full_feature_names)
    again = None if as_of_manifest is None else read_manifest(as_of_manifest)
    with ExitStack() as stack:
        show = stack.enter_context(_Progress()).show if sys.stderr.isatty() else lambda progress: None
        made = make_training_set(folder, request, again=again, progress=show)
        files = write_training_set(made, out)
    for partial in made.partial:
        since = partial.complete_from
        warn(
            f"the archive may lack events {', '.join(partial.missing)}: windows of {partial.view} reach there in "
            f"{partial.rows:,} of {made.frame.height:,} rows and "
            + ("over a lifetime are never complete" if since is None else f"are complete from {since} on")
        )
    if json:
        print_json(
            {
                "rows": made.frame.height,
                "columns": made.frame.columns,
                "files": files,
                "manifest": manifest_path(out),
                "partial": made.partial,
            }
        )
        return
    print_line(f"{made.frame.height:,} rows with {len(made.manifest.features)} features in {out}")
    print_line(f"manifest: {manifest_path(out)}")


class _Progress:
    """A bar for each view, on stderr."""

    def __enter__(self) -> "_Progress":
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        self._bars = Progress(*columns, console=Console(stderr=True))
        self._tasks: dict[str, int] = {}
        self._bars.start()
        return self

    def show(self, progress: "JoinProgress") -> None:
        """Draw it."""
        if progress.view not in self._tasks:
            self._tasks[progress.view] = self._bars.add_task(f"{progress.view}: events", total=progress.events)
        self._bars.update(self._tasks[progress.view], completed=progress.read)  # type: ignore[arg-type]

    def __exit__(self, *error: object) -> None:
        self._bars.stop()
