"""`featurestore init`: a new project from the example at the top of the repository."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.options import Json
from featurestore.cli.output import print_json, print_line
from featurestore.errors import ConfigError

EXAMPLES = "Example: [bold]featurestore init fraud && cd fraud && featurestore plan pipelines.transactions[/bold]"

TEMPLATE = (
    "featurestore.toml",
    "pipelines/__init__.py",
    "pipelines/transactions.py",
    "schemas/transaction.avsc",
)


def init(
    directory: Annotated[Path, typer.Argument(metavar="[DIR]", help="The project's folder; made if needed.")] = Path(),
    json: Json = False,
) -> None:
    """Start a project: an example pipeline, its schema and featurestore.toml. Overwrites nothing."""
    written = write_project(directory)
    if json:
        print_json({"directory": str(directory.resolve()), "files": [str(path) for path in written]})
        return
    for path in written:
        print_line(str(directory / path))
    if directory != Path():
        print_line(f"\nNext: cd {directory} && featurestore plan pipelines.transactions")
    else:
        print_line("\nNext: featurestore plan pipelines.transactions")


def write_project(directory: Path) -> list[Path]:
    """Write the template into `directory`; returns what was written, relative to it.

    Raises ConfigError when one of the files is there: then nothing was written.
    """
    there = [name for name in TEMPLATE if (directory / name).exists()]
    if there:
        raise ConfigError(
            f"{directory / there[0]} is there already; nothing was written",
            hint="choose another folder: featurestore init DIR",
        )
    root = template_root()
    for name in TEMPLATE:
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes((root / name).read_bytes())
    return [Path(name) for name in TEMPLATE]


def template_root() -> Path:
    """Where the template lies: packed into the wheel; in a checkout it is the example at the top itself."""
    packed = Path(__file__).parent / "template"
    return packed if packed.is_dir() else Path(__file__).parents[2]
