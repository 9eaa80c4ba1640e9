"""A backfill beside the live worker: `python -m benchmarks.backfill` (benchmarks/README.md)."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import run_measured
from benchmarks.report import aligned, record
from benchmarks.standard_job import ROOT, Figures, broker_at, checked, figures, measure_run

LIVE, PIPELINE = "card_amounts", "benchmarks.backfill_pipeline"
HEAD = ("", "CPU-s/M", "net CPU-s/M", "wall s", "events/s", "peak MB", "rows")


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.backfill", description=__doc__)
    parser.add_argument("--events", type=int, default=4_000_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--record", action="store_true", help="write the table into benchmarks/README.md")
    return parser.parse_args(argv)


def measure_backfill(events: int, processes: int, folder: Path) -> tuple[str, Figures]:
    """Fill the standard job's view under another name from the archive of `folder`/data; its name, and the cost."""
    view = f"filled_by_{processes}"
    environment = {
        "BACKFILL_VIEW": view,
        "FEATURESTORE_STORE__DATA_DIR": str(folder / "data"),
        "FEATURESTORE_WORKER__METRICS_PORT": "0",
    }
    command = [sys.executable, "-m", "featurestore", "backfill", PIPELINE, "--processes", str(processes)]
    idle = run_measured([*command, "--apply", "--dry-run"], folder, name="look", environment=environment)
    cost = run_measured(command, folder, name=view, environment=environment)
    run = figures(f"backfill ({processes})", events, checked(cost, view), cost.wall_s, checked(idle, "the dry run"))
    return view, run


def compare(offline: Path, view: str) -> tuple[int, str]:
    """Rows of the backfilled view, and what is wrong with them beside the live one's."""
    from featurestore.offline import read_snapshots

    rows = 0
    for folder in sorted((offline / "features" / LIVE / "v1").iterdir()):
        if not folder.is_dir():
            continue
        order = ["card_id", "window_end"]
        live, filled = (
            read_snapshots(offline, name, 1, folder.name, ["card_id"])
            .drop("revision", "created_timestamp")
            .sort(*order)
            for name in (LIVE, view)
        )
        rows += filled.height
        from polars.testing import assert_frame_equal

        try:
            assert_frame_equal(live, filled, rel_tol=1e-9, abs_tol=1e-7)
        except AssertionError as error:
            return rows, f"{folder.name}: {error}"
    return rows, ""


def main(argv: list[str]) -> int:
    """Run live, fill, compare, report. Exits with 1 when a row differs."""
    options = arguments_of(argv)
    os.chdir(ROOT)
    folder = Path(tempfile.mkdtemp(prefix="backfill-benchmark-"))
    load_before = os.getloadavg()[0]  # a busy machine measures something else
    job = [str(options.events), str(options.partitions), str(options.seed)]
    try:
        with broker_at(None) as servers:
            load = [sys.executable, "-m", "benchmarks.load", servers, *job]
            checked(run_measured(load, folder, name="load"), "loading the topic")
            live = measure_run(servers, options.events, 1, folder)
        filled = [measure_backfill(options.events, processes, folder) for processes in (1, 2)]
        found = [compare(folder / "data" / "offline", view) for view, _ in filled]
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = [HEAD, cells(live, None), *(cells(run, rows) for (_, run), (rows, _) in zip(filled, found, strict=True))]
    text = aligned(lines)
    print(text)
    wrong = [f"{view}: {complaint}" for (view, _), (_, complaint) in zip(filled, found, strict=True) if complaint]
    for complaint in wrong:
        print(f"WRONG {complaint}", file=sys.stderr)
    if options.record and not wrong:
        about = f"{options.events:,} events, {options.partitions} partitions, load {load_before:.1f} before"
        record(text, about, "backfill")
    return 1 if wrong else 0


def cells(run: Figures, rows: int | None) -> tuple[str, ...]:
    """A line of the table."""
    return (
        run.name,
        f"{run.cpu_s_per_million:.2f}",
        f"{run.cpu_s_per_million_net:.2f}",
        f"{run.wall_s:.1f}",
        f"{run.events_per_s:,.0f}",
        f"{run.peak_rss_mb:.0f}",
        "" if rows is None else f"{rows:,} the same",
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
