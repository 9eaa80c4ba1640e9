"""`featurestore offline iceberg`: the offline store as Apache Iceberg tables."""

from typing import Annotated

import typer

from featurestore.cli.options import DataDir, Json, load_settings
from featurestore.cli.output import print_json, print_line, print_table
from featurestore.durations import parse_duration_us

EXAMPLES = (
    "Examples: [bold]featurestore offline iceberg[/bold]   "
    "[bold]featurestore offline iceberg transactions card_activity --catalog lakehouse[/bold]"
)


def iceberg(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="Sources and views; all without.", show_default=False),
    ] = None,
    catalog: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help="Of pyiceberg's configuration; else one in data/offline.", show_default=False
        ),
    ] = None,
    grace: Annotated[str, typer.Option(help="As for compact, should one have been killed.")] = "30s",
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Register events, snapshots and batch rows as Iceberg tables over the same files, or bring these up to date.

    Nothing is copied. Each table's change is one Iceberg snapshot. Files that a worker still writes come with a later
    call: run it after each compaction and each removal.
    """
    from featurestore.cli.offline_datasets import choose_datasets
    from featurestore.offline.iceberg import open_catalog, sync_tables

    chosen = choose_datasets(load_settings(data_dir), names or [])
    synced = sync_tables(
        chosen.root, open_catalog(chosen.root, catalog), chosen.plan_tables, grace_s=parse_duration_us(grace) / 1e6
    )
    if json:
        print_json({"tables": synced})
    elif synced:
        rows = [(one.table, one.files, one.rows, one.added, one.removed) for one in synced]
        print_table(["table", "files", "rows", "added", "removed"], rows)
    else:
        print_line("no file is closed yet: a worker may still write all of them")
