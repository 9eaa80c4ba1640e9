"""What the commands around training sets share: a bar for each view, and how a label's associations are told."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurestore.training.association import Association
    from featurestore.training.history import JoinProgress


@contextmanager
def join_progress() -> "Iterator[Callable[[JoinProgress], None]]":
    """Gives what draws a join's progress on stderr, or nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda progress: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        tasks: dict[str, int] = {}

        def show(progress: "JoinProgress") -> None:
            if progress.view not in tasks:
                tasks[progress.view] = bars.add_task(f"{progress.view}: events", total=progress.events)
            bars.update(tasks[progress.view], completed=progress.read)  # type: ignore[arg-type]

        yield show


def association_document(one: "Association") -> dict[str, object]:
    """For programs."""
    return {
        "feature": one.feature,
        "of": one.of,
        "measure": one.measure,
        "value": one.value,
        "enough_rows": one.enough,
        "suspicious": one.is_suspicious,
    }
