"""Training sets beside hand-written joins: `python -m benchmarks.training` (benchmarks/README.md)."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.measure import Cost, run_measured
from benchmarks.report import aligned, record
from benchmarks.standard_job import ROOT, checked

FEATURES = [
    f"card_history:{name}_{window}" for name in ("count", "amount_sum", "amount_max") for window in ("10m", "1h", "24h")
]
FEAST_EVENTS, FEAST_ROWS = 50_000, 5_000
"""Feast pairs each row of the spine with all events of its card before it drops the later ones: more does not fit."""
HEAD = ("", "events", "rows", "wall s", "CPU s", "peak MB")


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument(
        "--events", type=int, nargs="+", default=[10_000_000], help="sizes of the archive; the others run on the first"
    )
    parser.add_argument("--rows", type=int, default=1_000_000, help="of the spine")
    parser.add_argument("--by-hand", action=argparse.BooleanOptionalAction, default=True, help="duckdb and polars, too")
    parser.add_argument("--feast", action=argparse.BooleanOptionalAction, default=True, help="Feast, on less")
    parser.add_argument("--record", action="store_true", help="write the table into benchmarks/README.md")
    return parser.parse_args(argv)


def ours(folder: Path, name: str, features: list[str], knowledge: str = "event") -> Cost:
    """`featurestore training-set`, whole process."""
    command = [sys.executable, "-m", "featurestore", "training-set", "--spine", str(folder / "spine.parquet")]
    command += ["--features", ",".join(features), "--knowledge", knowledge, "--out", str(folder / f"{name}.parquet")]
    command += ["--data-dir", str(folder / "data")]
    return checked(run_measured(command, folder, name=name), f"the training set {name}")


def by_hand(folder: Path, engine: str) -> Cost:
    """Another engine's, whole process."""
    command = [sys.executable, "-m", "benchmarks.training.by_hand", engine, str(folder)]
    return checked(run_measured(command, folder, name=engine), engine)


def feast(folder: Path) -> Cost:
    """Feast's own join over files, whole process."""
    from tests.serving.feast_environment import NoFeastError, feast_python

    try:
        python = feast_python()
    except NoFeastError as error:
        raise SystemExit(f"no Feast: {error}; leave it out with --no-feast") from error
    script = str(Path(__file__).with_name("feast_join.py"))
    return checked(run_measured([str(python), script, str(folder)], folder, name="feast"), "feast")


def same_amounts(folder: Path, engines: Sequence[str]) -> None:
    """Raises SystemExit unless all found the same newest amounts.

    Rows without one are left out: Feast drops those whose card has later events only.
    """
    import polars as pl

    def amounts(engine: str) -> pl.DataFrame:
        frame = pl.read_parquet(folder / f"{engine}.parquet", columns=["card_id", "event_timestamp", "amount_last"])
        time = pl.col("event_timestamp").dt.epoch("ms")
        return frame.with_columns(time, pl.col("amount_last").fill_nan(None)).drop_nulls().sort(pl.all())

    first = amounts(engines[0])
    for engine in engines[1:]:
        if not amounts(engine).equals(first):
            raise SystemExit(f"{engine} found other amounts than {engines[0]}")


def windows(folder: Path, *, with_others: bool) -> dict[str, Cost]:
    """Nine features over windows."""
    runs = {
        f"training-set, knowledge {knowledge}": ours(folder, knowledge, FEATURES, knowledge)
        for knowledge in ("event", "arrival")
    }
    for engine in ("duckdb", "polars") if with_others else ():
        runs[f"{engine}, windows by hand"] = by_hand(folder, engine)
    return runs


def newest(folder: Path, *, with_feast: bool) -> dict[str, Cost]:
    """One feature that an ASOF join expresses, too; the results are compared."""
    runs = {"training-set, newest amount": ours(folder, "ours-asof", ["card_newest:amount_last"])}
    engines = ["duckdb-asof", "polars-asof"]
    for engine in engines:
        runs[f"{engine.partition('-')[0]}, ASOF join"] = by_hand(folder, engine)
    if with_feast:
        runs["feast 0.67, point-in-time join"] = feast(folder)
        engines.append("feast-asof")
    same_amounts(folder, ["ours-asof", *engines])
    return runs


def measured(events: int, rows: int, runs: Callable[[Path], dict[str, Cost]]) -> list[tuple[str, ...]]:
    """Lines of the table, from an archive and a spine of these sizes."""
    folder = Path(tempfile.mkdtemp(prefix="training-benchmark-"))
    try:
        job = [sys.executable, "-m", "benchmarks.training.data", str(folder), str(events), str(rows)]
        checked(run_measured(job, folder, name="data"), "the data")
        return [
            (name, f"{events:,}", f"{rows:,}", f"{cost.wall_s:.1f}", f"{cost.cpu_s:.1f}", f"{cost.peak_rss_mb:.0f}")
            for name, cost in runs(folder).items()
        ]
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def main(argv: list[str]) -> int:
    """Make the data, measure, report."""
    options = arguments_of(argv)
    os.chdir(ROOT)
    load_before = os.getloadavg()[0]  # a busy machine measures something else
    lines: list[tuple[str, ...]] = [HEAD]
    first, *larger = options.events
    lines += measured(first, options.rows, lambda folder: windows(folder, with_others=options.by_hand))
    for events in larger:
        lines += measured(events, options.rows, lambda folder: windows(folder, with_others=False))
    if options.by_hand:
        lines += measured(first, options.rows, lambda folder: newest(folder, with_feast=False))
    if options.feast:
        lines += measured(FEAST_EVENTS, FEAST_ROWS, lambda folder: newest(folder, with_feast=True))
    text = aligned(lines)
    print(text)
    if options.record:
        record(
            text, f"nine features over 10m, 1h and 24h; the newest amount; load {load_before:.1f} before", "training"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
