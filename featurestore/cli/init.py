"""`featurestore init`: a new project from one of the examples at the top of the repository."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.options import EXAMPLE_NAMES, Json, check_example
from featurestore.cli.output import print_json, print_line
from featurestore.examples import BY_NAME, DEFAULT, write_project

EXAMPLES = (
    "Examples: [bold]featurestore init fraud && cd fraud && featurestore plan pipelines.transactions[/bold]   "
    "[bold]featurestore init shop --template clicks[/bold]   [bold]featurestore init plant --template sensors[/bold]"
)
LISTED = "; ".join(f"{example.name}: {example.about}" for example in BY_NAME.values())


def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="The project's folder; made if needed.")] = Path(),
    template: Annotated[
        str,
        typer.Option(metavar=EXAMPLE_NAMES, callback=check_example, help=f"The example to begin with. {LISTED}."),
    ] = DEFAULT,
    json: Json = False,
) -> None:
    """Start a project: an example pipeline, its schema and featurestore.toml. Overwrites nothing."""
    example = BY_NAME[template]
    written = write_project(directory, example)
    if json:
        print_json({"directory": str(directory.resolve()), "files": [str(path) for path in written]})
        return
    for path in written:
        print_line(str(directory / path))
    enter = "" if directory == Path() else f"cd {directory} && "
    print_line(f"\nNext: {enter}featurestore plan {example.dotted_module}")
