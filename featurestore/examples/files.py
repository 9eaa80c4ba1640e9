"""An example's files: where they lie, and how a project is made of them."""

from __future__ import annotations

from pathlib import Path

from featurestore.errors import ConfigError
from featurestore.examples.table import BY_NAME, DEFAULT, SHARED_FILES, Example


def template_root() -> Path:
    """Where the files lie: packed into the wheel; in a checkout they are the examples at the top themselves."""
    packed = Path(__file__).parent / "template"
    return packed if packed.is_dir() else Path(__file__).parents[2]


def write_project(directory: Path, example: Example = BY_NAME[DEFAULT]) -> list[Path]:
    """Write the files of `example` into `directory`; returns what was written, relative to it.

    Overwrites nothing: a second example joins a project whose shared files are still those of the template.
    Raises ConfigError when another file would be in the way: then nothing was written.
    """
    root = template_root()
    wanted = {name: (root / name).read_bytes() for name in example.files}
    shared = {name for name in SHARED_FILES if (directory / name).exists()}
    for name, content in wanted.items():
        target = directory / name
        if target.exists() and not (name in shared and target.read_bytes() == content):
            raise ConfigError(
                f"{target} is there already; nothing was written",
                hint="choose another folder: featurestore init DIR",
            )
    written = [name for name in wanted if name not in shared]
    for name in written:
        target = directory / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(wanted[name])
    return [Path(name) for name in written]
