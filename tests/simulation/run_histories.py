"""`python -m tests.simulation.run_histories --seed 1 --minutes 5`: histories on all cores; names the seeds that failed.

`python -m tests.simulation.run_histories --only 4711` lives one of them again. Exits with 1 when one failed.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import Progress

from tests.simulation.conftest import never_wait_for_the_disk
from tests.simulation.histories import drawn_history

PORTION = 10
"""Histories that a process is given at a time."""


@dataclass(frozen=True)
class Lived:
    """What became of a history. crashes: where it died. failure: None when all was as the oracle says."""

    seed: int
    lives: int
    crashes: tuple[str, ...]
    failure: str | None


def live(seed: int) -> Lived:
    """One history, in a folder that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="history-"))
    try:
        simulation = drawn_history(seed, folder)
    except Exception:  # noqa: BLE001 (whatever is raised is what was looked for)
        return Lived(seed, 0, (), traceback.format_exc())
    finally:
        shutil.rmtree(folder)
    return Lived(seed, simulation.lives, tuple(simulation.crashes), None)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1, help="of the first history; the others follow")
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--only", type=int, help="live this one alone")
    asked = parser.parse_args()
    console = Console()
    if asked.only is not None:
        never_wait_for_the_disk()
        one = live(asked.only)
        console.print(one.failure or f"{one.lives} lives, died at: {', '.join(one.crashes)}", highlight=False)
        return 1 if one.failure else 0
    began, cores = time.monotonic(), os.cpu_count() or 1
    lived, lives, failed = 0, 0, 0
    crashes: Counter[str] = Counter()
    # Each process has a core; threads of its own would only get in the way of the others.
    os.environ["POLARS_MAX_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(cores, initializer=never_wait_for_the_disk) as pool,
        Progress(console=console, transient=True) as bar,
    ):
        task = bar.add_task("", total=asked.minutes * 60)
        first = asked.seed
        while time.monotonic() - began < asked.minutes * 60:
            seeds = range(first, first + 4 * PORTION * cores)
            first = seeds.stop
            for one in pool.imap_unordered(live, seeds, PORTION):
                lived, lives = lived + 1, lives + one.lives
                crashes.update(one.crashes)
                if one.failure is not None:
                    failed += 1
                    console.print(f"seed {one.seed}: {one.failure}", style="red", highlight=False)
            bar.update(task, completed=time.monotonic() - began, description=f"{lived:,} histories")
    minutes = (time.monotonic() - began) / 60
    console.print(
        f"{lived:,} histories, {lives:,} lives, {crashes.total():,} deaths at {len(crashes)} kinds of writes; "
        f"{lived / minutes:,.0f} histories a minute on {cores} cores; {failed} failed",
        highlight=False,
        soft_wrap=True,
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
