"""Reads over HTTP, ours and Feast's, idle and beside a busy worker: `python -m benchmarks.serving`.

benchmarks/README.md tells what happens.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from benchmarks.measure import machine
from benchmarks.report import aligned, record
from benchmarks.serving import stage
from benchmarks.serving.feed import HISTORY_EVENTS, card_name, draw_cards

FEATURES = [
    f"card_profile:{name}"
    for name in (
        *("count_10m", "count_1h", "count_24h", "amount_sum_10m", "amount_sum_1h", "amount_sum_24h"),
        *("amount_mean_1h", "amount_max_24h", "count_tumbling_1m", "merchant_id_last"),
    )
]
KEYS = 100_000
# (entities, connections)
LOADS = ((1, 1), (1, 16), (100, 1), (1_000, 1))
FEAST_LOADS = ((1, 1), (1, 16), (100, 1))


@dataclass(frozen=True)
class Figures:
    """One run of wrk against one server."""

    server: str
    writing: str
    entities: int
    connections: int
    requests_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float


@dataclass(frozen=True)
class Freshness:
    """From produce to visible, at one setting of both intervals."""

    commit_interval: str
    refresh_interval: str
    events: int
    p50_ms: float
    p99_ms: float


def measured(
    server: str, writing: str, url: str, loads: Sequence[tuple[int, int]], seconds: int, keys: Path
) -> Iterator[Figures]:
    """One row a load, each after a short warm-up."""
    for entities, connections in loads:
        stage.wrk(url, entities, connections, 1, keys, FEATURES)
        found = stage.wrk(url, entities, connections, seconds, keys, FEATURES)
        yield Figures(
            server,
            writing,
            entities,
            connections,
            found["requests"] / found["seconds"],
            found["p50_ms"],
            found["p90_ms"],
            found["p99_ms"],
        )


def run_ours(options: argparse.Namespace, folder: Path, keys: Path) -> tuple[list[Figures], list[Freshness]]:
    """Our server, idle and beside a worker at the rate, with one and two processes; then the freshness."""
    rows: list[Figures] = []
    fresh: list[Freshness] = []
    rate, busy = options.events_per_s, f"{options.events_per_s:,}/s"
    with stage.broker(folder) as servers:
        feed = [sys.executable, "-m", "benchmarks.serving.feed", servers, "0", "0"]
        subprocess.run(feed, check=True, cwd=stage.ROOT, stdout=subprocess.DEVNULL)
        with stage.worker(folder, events=HISTORY_EVENTS):
            for processes in (1, 2):
                with stage.server(folder, processes=processes) as url:
                    name = f"featurestore ({processes})"
                    rows += measured(name, "idle", url, LOADS, options.seconds, keys)
                    with stage.stream(servers, rate, folder):
                        rows += measured(name, busy, url, LOADS, options.seconds, keys)
            with stage.server(folder) as url, stage.stream(servers, rate, folder):
                fresh.append(freshness(servers, url, "1s", "100ms", options.seconds))
        with (
            stage.worker(folder, commit_interval="50ms"),
            stage.server(folder, refresh_interval="50ms") as url,
            stage.stream(servers, rate, folder),
        ):
            fresh.append(freshness(servers, url, "50ms", "50ms", options.seconds))
    return rows, fresh


def freshness(servers: str, url: str, commit: str, refresh: str, seconds: int) -> Freshness:
    """Measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.serving.freshness", servers, url, str(seconds)]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=stage.ROOT)
    found = json.loads(done.stdout)
    return Freshness(commit, refresh, found["events"], found["p50_ms"], found["p99_ms"])


def run_feast(options: argparse.Namespace, folder: Path, keys: Path) -> list[Figures]:
    """Feast's own server, sqlite, one worker."""
    from tests.serving.feast_environment import NoFeastError, feast_python

    try:
        python = feast_python()
    except NoFeastError as error:
        raise SystemExit(f"no Feast: {error}; leave it out with --no-feast") from error
    with stage.feast_server(python, folder, keys) as url:
        return list(measured("feast 0.67 (1)", "idle", url, FEAST_LOADS, options.seconds, keys))


def table(rows: Sequence[Figures], fresh: Sequence[Freshness]) -> str:
    """Both tables for people."""
    reads = [("server (processes)", "worker", "entities", "connections", "requests/s", "p50 ms", "p90 ms", "p99 ms")]
    for row in rows:
        times = (f"{row.p50_ms:.2f}", f"{row.p90_ms:.2f}", f"{row.p99_ms:.2f}")
        size = (f"{row.entities:,}", str(row.connections), f"{row.requests_per_s:,.0f}")
        reads.append((row.server, row.writing, *size, *times))
    delays = [("produce to visible", "commit_interval", "refresh_interval", "events", "p50 ms", "p99 ms")]
    for delay in fresh:
        numbers = (str(delay.events), f"{delay.p50_ms:.0f}", f"{delay.p99_ms:.0f}")
        delays.append(("", delay.commit_interval, delay.refresh_interval, *numbers))
    return f"{aligned(reads, 2)}\n\n{aligned(delays, 2)}"


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.serving", description=__doc__)
    parser.add_argument("--seconds", type=int, default=8, help="of each measurement")
    parser.add_argument("--events-per-s", type=int, default=20_000, help="what the busy worker is given")
    parser.add_argument("--no-feast", action="store_true", help="leave Feast's server out")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--record", action="store_true", help="write the tables into benchmarks/README.md")
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it: data and logs")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Measure, report."""
    options = arguments_of(argv)
    folder = (options.keep or Path(tempfile.mkdtemp(prefix="serving-benchmark-"))).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    load_before = os.getloadavg()[0]  # a busy machine measures something else
    try:
        keys = folder / "keys.txt"
        # Asked for as often as they pay: whoever scores a payment reads the features of that card.
        drawn = draw_cards(KEYS, np.random.default_rng(5))
        keys.write_text("".join(f"{card_name(card)}\n" for card in drawn))
        rows, fresh = run_ours(options, folder, keys)
        if not options.no_feast:
            rows += run_feast(options, folder, keys)
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    text = table(rows, fresh)
    print(text)
    report = {
        "machine": machine(),
        "load_before": load_before,
        "events_per_s": options.events_per_s,
        "reads": [asdict(row) for row in rows],
        "freshness": [asdict(delay) for delay in fresh],
    }
    if options.json:
        options.json.write_text(json.dumps(report, indent=2) + "\n")
    if options.record:
        job = f"{options.events_per_s:,} events/s where the worker is busy, load average before {load_before:.1f}"
        record(text, job, "serving")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
