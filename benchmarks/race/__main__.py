"""Ours beside other engines on one broker: `python -m benchmarks.race` (benchmarks/README.md)."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from benchmarks.race.engines import PARTITIONS, PEERS, Result, install, load, race_ours
from benchmarks.race.shapes import SHAPES, Shape
from benchmarks.report import aligned, record
from benchmarks.standard_job import ROOT, broker_at

HEAD = ("shape", "engine", "events", "CPU-s/M", "net CPU-s/M", "wall s", "events/s", "peak MB", "rows", "checked")
Step = tuple[str, Callable[[str, Path], Result | None]]


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.race", description=__doc__)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES), help="all when left out")
    parser.add_argument("--events", type=int, help="for ours; each shape has its own number when left out")
    parser.add_argument("--peer-events", type=int, default=200_000, help="for the other engines, and once for ours")
    parser.add_argument("--peers", action=argparse.BooleanOptionalAction, default=True, help="run other engines, too")
    parser.add_argument("--record", action="store_true", help="write the table into benchmarks/README.md")
    return parser.parse_args(argv)


def steps_of(shape: Shape, events: int, peer_events: int, peers: bool) -> list[Step]:
    """What is done for a shape, in order: each with its name; loading gives no result."""
    racing = peers and shape.peers
    steps: list[Step] = []
    for count in sorted({events, peer_events} if racing else {events}):

        def fill(servers: str, folder: Path, count: int = count) -> None:
            load(servers, shape, count, folder)

        def ours(servers: str, folder: Path, count: int = count) -> Result:
            return race_ours(servers, shape, count, folder)

        steps += [(f"{shape.name}: loading {count:,} events", fill), (f"{shape.name}: featurestore", ours)]
        if racing and count == peer_events:
            for name, race in PEERS.items():

                def peer(
                    servers: str,
                    folder: Path,
                    count: int = count,
                    race: Callable[[str, Shape, int, Path], Result] = race,
                ) -> Result:
                    return race(servers, shape, count, folder)

                steps.append((f"{shape.name}: {name}", peer))
    return steps


def table(results: list[Result]) -> list[tuple[str, ...]]:
    """The results as cells, the head first."""
    lines: list[tuple[str, ...]] = [HEAD]
    for result in results:
        run = result.figures
        lines.append(
            (
                result.shape,
                result.engine,
                f"{result.events:,}",
                f"{run.cpu_s_per_million:.2f}",
                f"{run.cpu_s_per_million_net:.2f}",
                f"{run.wall_s:.1f}",
                f"{run.events_per_s:,.0f}",
                f"{run.peak_rss_mb:.0f}",
                f"{result.rows:,}",
                "WRONG" if result.wrong else "right",
            )
        )
    return lines


def run_steps(steps: list[Step], servers: str, folder: Path, console: Console) -> list[Result]:
    """Carry the steps out one after the other, with a bar."""
    results = []
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("", total=len(steps))
        for name, step in steps:
            progress.update(task, description=name)
            result = step(servers, folder)
            if result is not None:
                results.append(result)
                run = result.figures
                console.print(f"{name}: {result.events:,} events, {run.cpu_s:.1f} CPU-s, {run.wall_s:.1f} s")
            progress.advance(task)
    return results


def main(argv: list[str]) -> int:
    """Run the race, print the table. Exits with 1 when an engine gave wrong rows."""
    options = arguments_of(argv)
    os.chdir(ROOT)
    console = Console(stderr=True, highlight=False)
    shapes = [SHAPES[name] for name in options.shapes]
    if options.peers and any(shape.peers for shape in shapes):
        with console.status("installing the other engines, once"):
            for name in PEERS:
                install(name)
    steps: list[Step] = []
    for shape in shapes:
        steps += steps_of(shape, options.events or shape.events, options.peer_events, options.peers)
    folder = Path(tempfile.mkdtemp(prefix="race-"))
    load_before = os.getloadavg()[0]
    # All that needs arrays runs in processes of its own: this one stays small (benchmarks/measure.py).
    try:
        with broker_at(None) as servers:
            results = run_steps(steps, servers, folder, console)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = aligned(table(results), texts=2)
    print(lines)
    wrong = [(result, complaint) for result in results for complaint in result.wrong]
    for result, complaint in wrong:
        print(f"WRONG {result.shape}, {result.engine}: {complaint}", file=sys.stderr)
    if options.record and not wrong:
        record(lines, f"{PARTITIONS} partitions, load {load_before:.1f} before", "race")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
