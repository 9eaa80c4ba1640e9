"""Scans of online stores, with their progress on stderr when that is a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from featurestore.cli.disk_report import DiskReport, collect_disk
from featurestore.config import Settings
from featurestore.registry import AnyView, Registry

OnShard = Callable[[str, int, int], None]
"""Called with what is being scanned, shards done, shards."""


@contextmanager
def shard_progress(verb: str) -> Iterator[OnShard]:
    """A bar for each source, gone when it is done; nothing where stderr is no terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("shards"))
    with Progress(
        *columns,
        TimeElapsedColumn(),
        console=Console(file=sys.stderr),
        transient=True,
        disable=not sys.stderr.isatty(),
    ) as progress:
        tasks = {}

        def tell(source: str, done: int, shards: int) -> None:
            if source not in tasks:
                tasks[source] = progress.add_task(f"{verb} {source}", total=shards)
            progress.update(tasks[source], completed=done)

        yield tell


def scan_disk(settings: Settings) -> DiskReport:
    """What the applied views and their sources take. Raises StoreError, RegistryError."""
    registry = Registry.open(settings.registry_place, create=False)
    try:
        views: list[AnyView] = [*registry.live_views(), *registry.live_batch_views()]
    finally:
        registry.close()
    with shard_progress("scanning") as tell:
        return collect_disk(settings.store.data_dir, views, tell)
