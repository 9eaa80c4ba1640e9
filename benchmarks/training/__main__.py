"""Training sets beside hand-written joins: `python -m benchmarks.training` (benchmarks/README.md)."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

from benchmarks.measure import Cost, run_measured
from benchmarks.report import aligned, record
from benchmarks.standard_job import ROOT, checked

FEATURES = [
    f"card_history:{name}_{window}" for name in ("count", "amount_sum", "amount_max") for window in ("10m", "1h", "24h")
]
HEAD = ("", "events", "rows", "wall s", "CPU s", "peak MB")


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--events", type=int, nargs="+", default=[10_000_000], help="sizes of the archive")
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the spine")
    parser.add_argument("--by-hand", action=argparse.BooleanOptionalAction, default=True, help="duckdb and polars, too")
    parser.add_argument("--record", action="store_true", help="write the table into benchmarks/README.md")
    return parser.parse_args(argv)


def ours(folder: Path, knowledge: str) -> Cost:
    """`featurestore training-set`, whole process."""
    out = folder / f"{knowledge}.parquet"
    command = [sys.executable, "-m", "featurestore", "training-set", "--spine", str(folder / "spine.parquet")]
    command += ["--features", ",".join(FEATURES), "--knowledge", knowledge, "--out", str(out)]
    command += ["--data-dir", str(folder / "data")]
    return checked(run_measured(command, folder, name=knowledge), f"the training set by {knowledge}")


def main(argv: list[str]) -> int:
    """Make the data, measure, report."""
    options = arguments_of(argv)
    os.chdir(ROOT)
    load_before = os.getloadavg()[0]  # a busy machine measures something else
    lines: list[tuple[str, ...]] = [HEAD]
    for events in options.events:
        folder = Path(tempfile.mkdtemp(prefix="training-benchmark-"))
        try:
            job = [str(folder), str(events), str(options.rows)]
            checked(
                run_measured([sys.executable, "-m", "benchmarks.training.data", *job], folder, name="data"), "the data"
            )
            runs = {
                f"training-set, knowledge {knowledge}": ours(folder, knowledge) for knowledge in ("event", "arrival")
            }
            for engine in ("duckdb", "polars") if options.by_hand else ():
                command = [sys.executable, "-m", "benchmarks.training.by_hand", engine, str(folder)]
                runs[f"{engine}, by hand"] = checked(run_measured(command, folder, name=engine), engine)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        for name, cost in runs.items():
            figures = (f"{cost.wall_s:.1f}", f"{cost.cpu_s:.1f}", f"{cost.peak_rss_mb:.0f}")
            lines.append((name, f"{events:,}", f"{options.rows:,}", *figures))
    text = aligned(lines)
    print(text)
    if options.record:
        record(text, f"nine features over 10m, 1h and 24h, load {load_before:.1f} before", "training")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
