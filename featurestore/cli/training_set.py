"""`featurestore training-set`: features as they stood at each row of a spine."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from featurestore.cli.join_report import association_document, join_progress
from featurestore.cli.options import DataDir, Json, load_settings, require_data_dir
from featurestore.cli.output import print_json, print_line, warn

EXAMPLES = (
    "Examples: [bold]featurestore training-set --spine labels.parquet --features card_activity:count_10m "
    "--features card_activity:count_24h --out training.parquet[/bold]   "
    "[bold]featurestore training-set --spine labels.csv --features card_activity:count_1h --knowledge arrival "
    "--out training/[/bold]   "
    "[bold]featurestore training-set --spine labels.parquet --service fraud_v1 --out training.parquet[/bold]   "
    "[bold]featurestore training-set --spine labels.parquet --as-of-manifest training.parquet.manifest.json "
    "--out again.parquet[/bold]"
)


def training_set(
    spine: Annotated[Path, typer.Option("--spine", help="Parquet or CSV: join keys, instants, labels.")],
    out: Annotated[Path, typer.Option("--out", help="NAME.parquet for one file; another name for a folder of parts.")],
    features: Annotated[
        list[str] | None, typer.Option("--features", metavar="VIEW:FEATURE", help="Repeat it, or separate by commas.")
    ] = None,
    service: Annotated[
        str | None, typer.Option(metavar="NAME", help="A feature service's features.", show_default=False)
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
    label: Annotated[
        str | None,
        typer.Option(metavar="COLUMN", help="Warn of features that tell this column of the spine.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Join features to a spine, each as it stood at its row's instant, and write a manifest beside the result."""
    from featurestore.cli.recorded import recorded_training_set
    from featurestore.errors import MalformedRequestError
    from featurestore.training.association import label_associations
    from featurestore.training.manifest import read_manifest
    from featurestore.training.output import manifest_path, write_training_set
    from featurestore.training.spine import spine_columns
    from featurestore.training.training_set import TrainingSetRequest, make_training_set
    from featurestore.training.usage import record_training

    wanted = tuple(name for given in features or () for name in given.split(",") if name)
    if as_of_manifest is not None and (wanted or service or knowledge != "event" or knowledge_time is not None):
        raise typer.BadParameter("the manifest says what is joined", param_hint="--as-of-manifest")
    settings = load_settings(data_dir)
    folder = require_data_dir(settings)
    request = TrainingSetRequest(spine, wanted, knowledge, knowledge_time, event_timestamp, full_feature_names, service)
    again = None if as_of_manifest is None else read_manifest(as_of_manifest)
    if label is not None and label not in (has := spine_columns(spine)):
        raise MalformedRequestError(f"the spine has no column '{label}'", hint=f"it has {', '.join(has)}")
    with recorded_training_set(settings, request, again, out) as record, join_progress() as show:
        made = make_training_set(folder, request, again=again, registry_place=settings.registry_place, progress=show)
        files = write_training_set(made, out)
        record(made)
    record_training(settings.registry_place, made.manifest)
    for partial in made.partial:
        since = partial.complete_from
        warn(
            f"the archive may lack events {', '.join(partial.missing)}: windows of {partial.view} reach there in "
            f"{partial.rows:,} of {made.frame.height:,} rows and "
            + ("over a lifetime are never complete" if since is None else f"are complete from {since} on")
        )
    joined = made.frame.columns[-len(made.manifest.features) :]
    associations = [] if label is None else label_associations(made.frame, joined, label)
    for suspicious in (one for one in associations if one.is_suspicious):
        warn(suspicious.sentence(str(label)))
    if json:
        print_json(
            {
                "rows": made.frame.height,
                "columns": made.frame.columns,
                "files": files,
                "manifest": manifest_path(out),
                "partial": made.partial,
                "label": [association_document(one) for one in associations],
            }
        )
        return
    print_line(f"{made.frame.height:,} rows with {len(made.manifest.features)} features in {out}")
    print_line(f"manifest: {manifest_path(out)}")
