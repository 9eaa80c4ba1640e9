"""`featurestore training-check`: does a training set hold anything from after its instants?"""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.join_report import association_document, join_progress
from featurestore.cli.options import DataDir, Json, load_settings, require_data_dir
from featurestore.cli.output import print_json, print_line, print_table, warn

EXAMPLES = (
    "Examples: [bold]featurestore training-check training.parquet[/bold]   "
    "[bold]featurestore training-check training/ --sample 10000 --label is_fraud[/bold]   "
    "[bold]featurestore training-check by_hand.parquet --manifest training.parquet.manifest.json[/bold]"
)


def training_check(
    path: Annotated[Path, typer.Argument(metavar="SET", help="A Parquet file, or a folder of parts.")],
    manifest: Annotated[
        Path | None, typer.Option(help="What it is said to be made of; else the one beside it.", show_default=False)
    ] = None,
    sample: Annotated[
        int | None, typer.Option(min=1, help="So many rows, the same each time; all without.", show_default=False)
    ] = None,
    label: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Warn of features that tell this column.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Compute a training set's features again as of each row's instant, and compare.

    Rows that differ are compared with later instants, too: a value that stood there only later leaked from the future.
    "noticeable" are rows whose value is another one as of some other row's instant, so that a wrong instant would
    show; "largest" is the largest difference of a number. Exits with 1 when any row differs.
    """
    from featurestore.training.association import label_associations
    from featurestore.training.leakage import check_training_set, read_training_set
    from featurestore.training.manifest import read_manifest
    from featurestore.training.output import manifest_path

    folder = require_data_dir(load_settings(data_dir))
    made_of = read_manifest(manifest or manifest_path(path))
    rows = read_training_set(path, made_of)
    associations = [] if label is None else label_associations(rows, list(made_of.columns.values()), label)
    with join_progress() as show:
        checks = check_training_set(folder, rows, made_of, sample=sample, progress=show)
    for suspicious in (one for one in associations if one.is_suspicious):
        warn(suspicious.sentence(str(label)))
    if json:
        print_json({"features": checks, "label": [association_document(one) for one in associations]})
    else:
        columns = ["feature", "rows", "noticeable", "different", "largest", "from later", "how much later"]
        print_table(
            columns,
            [(c.feature, c.rows, c.noticeable, c.different, _number(c.largest), c.later, c.when or "") for c in checks],
        )
        wrong = [check for check in checks if check.different]
        if wrong:
            print_line(f"{len(wrong)} of {len(checks)} features are not what stood at their rows' instants")
        else:
            print_line(f"all {len(checks)} features are what stood at their rows' instants")
    if any(check.different for check in checks):
        raise typer.Exit(1)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
