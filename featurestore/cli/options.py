"""Options and arguments that several commands share, and the settings they give."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.examples import BY_NAME

if TYPE_CHECKING:
    from featurestore.config import Settings
    from featurestore.registry import Registry

Json = Annotated[bool, typer.Option("--json", help="One JSON document on stdout, for programs.")]
Modules = Annotated[
    list[str],
    typer.Argument(metavar="MODULE…", help="Definitions: a dotted module or a path, from the working directory."),
]
DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where data lies; overrides \\[store] data_dir.", show_default=False),
]
BootstrapServers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers",
        help='host:port,… or "embedded"; overrides \\[kafka] bootstrap_servers.',
        show_default=False,
    ),
]
EXAMPLE_NAMES = "|".join(BY_NAME)


def check_example(name: str) -> str:
    """The name of an example; wrong usage for any other."""
    if name not in BY_NAME:
        raise typer.BadParameter(f"there is no '{name}'; it is {', '.join(BY_NAME)}")
    return name


Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def confirm(question: str, yes: bool) -> None:
    """Ask on stderr unless --yes was given; anything but yes ends the command with 1.

    Raises ConfigError when there is no terminal to ask on.
    """
    import sys

    from featurestore.errors import ConfigError

    if yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError("this asks before it acts, and nobody is at the terminal", hint="say --yes")
    typer.confirm(question, abort=True, err=True)


def load_settings(data_dir: Path | None = None, **overrides: object) -> "Settings":
    """Settings of the working directory, with what options say on top.

    overrides: as `kafka__bootstrap_servers="…"`; None when the option was not given.
    """
    from featurestore.config import Settings

    options = {
        "store.data_dir": data_dir,
        **{key.replace("__", "."): value for key, value in overrides.items()},
    }
    return Settings.load(Path.cwd(), options)


def open_registry(data_dir: Path | None) -> "Registry":
    """The registry of the working directory's settings. Raises RegistryError when nothing was applied yet."""
    from featurestore.registry import Registry

    return Registry.open(load_settings(data_dir).registry_place, create=False)


def require_data_dir(settings: "Settings") -> Path:
    """The data_dir. Raises StoreError when it is not there: a command that only looks makes nothing."""
    from featurestore.errors import StoreError

    if not settings.store.data_dir.is_dir():
        raise StoreError(
            f"there is no data in {settings.store.data_dir}",
            hint="run it in the project's folder, or set [store] data_dir or --data-dir; new: featurestore init",
        )
    return settings.store.data_dir
