"""`featurestore offline`: what lies in the offline store."""

from datetime import datetime

import typer

from featurestore.cli.options import DataDir, Json, load_settings, require_data_dir
from featurestore.cli.output import format_bytes, print_json, print_line, print_table

LS_EXAMPLES = "Examples: [bold]featurestore offline ls[/bold]   [bold]featurestore offline ls --json[/bold]"

app = typer.Typer(help="What lies in the offline store.", no_args_is_help=True)


@app.command("ls", epilog=LS_EXAMPLES)
def ls(data_dir: DataDir = None, json: Json = False) -> None:
    """List the datasets of the offline store: files, rows, bytes and the span of time that they cover.

    The span is of event_time for events and late events, of arrival_time for dead letters, of window_end for snapshots.
    Figures come from the footers of the Parquet files: no data is read, and a running worker is not disturbed.
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
        ["dataset", "files", "rows", "size", "from", "to", "of"],
        [
            [d.dataset, d.files, d.rows, format_bytes(d.size_bytes), _time(d.earliest), _time(d.latest), d.time_column]
            for d in datasets
        ],
    )


def _time(instant: datetime | None) -> str | None:
    return None if instant is None else instant.isoformat().replace("+00:00", "Z")
