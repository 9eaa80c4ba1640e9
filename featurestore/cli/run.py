"""`featurestore run`: the workers."""

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.git_revision import git_revision
from featurestore.cli.options import BootstrapServers, DataDir, Modules, load_settings

EXAMPLES = (
    "Examples: [bold]featurestore run pipelines/transactions.py --apply[/bold]   "
    "[bold]featurestore run pipelines.transactions --processes 4[/bold]   "
    "[bold]featurestore run pipelines.transactions --until-end --close-windows[/bold]"
)


def run(
    context: typer.Context,
    modules: Modules,
    processes: Annotated[
        int | None,
        typer.Option(
            min=1, help="Worker processes on this machine; overrides \\[worker] processes.", show_default=False
        ),
    ] = None,
    until_end: Annotated[bool, typer.Option(help="Stop at the topics' present ends, with everything durable.")] = False,
    close_windows: Annotated[
        bool, typer.Option(help="With --until-end: emit the windows that are still open, too.")
    ] = False,
    apply: Annotated[
        bool,
        typer.Option(
            "--apply",
            help="Apply changed definitions before the run; new versions are served at once, but for batch views.",
        ),
    ] = False,
    accept_gap: Annotated[
        bool,
        typer.Option(
            "--accept-gap",
            help="Go on without messages that the broker removed before they were read, and count them; the default is "
            "to stop.",
        ),
    ] = False,
    bootstrap_servers: BootstrapServers = None,
    data_dir: DataDir = None,
) -> None:
    """Read topics, keep the online and the offline store in step, until SIGTERM or Ctrl-C.

    Definitions that differ from what is applied stop it and show the plan. A signal to any process drains all: what was
    read is committed, then every process exits with 0.
    """
    # Before polars is imported: commits are many and small, and each process has a core.
    os.environ.setdefault("POLARS_MAX_THREADS", "1")
    from featurestore.worker.run import RunOptions
    from featurestore.worker.run import run as run_workers

    if close_windows and not until_end:
        raise typer.BadParameter("it needs --until-end", param_hint="--close-windows")
    settings = load_settings(kafka__bootstrap_servers=bootstrap_servers, store__data_dir=data_dir)
    options = RunOptions(
        tuple(modules),
        Path.cwd(),
        processes or settings.worker.processes,
        until_end,
        close_windows,
        apply,
        context.find_root().params["log_level"],
        revision=git_revision(Path.cwd()) if apply else None,
        accept_gap=accept_gap,
    )
    if not sys.stderr.isatty():
        run_workers(settings, options)
        return
    from featurestore.cli.run_screen import RunScreen

    with RunScreen() as screen:
        run_workers(settings, replace(options, metrics_dir=screen.metrics_dir, stderr=screen.stderr))
