"""The standard job against the bare consumer: `python -m benchmarks.standard_job` (benchmarks/README.md)."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from benchmarks.measure import Cost, machine, run_measured
from benchmarks.report import aligned, record

ROOT = Path(__file__).resolve().parents[1]
TOPIC = "payments"
MODULE = "benchmarks.standard_pipeline"


@dataclass(frozen=True)
class Figures:
    """One measured run.

    cpu_s_per_million: of the whole run; _net: less what the same program takes with nothing to read (idle_*).
    active_s: from the first event, or the worker's start, on.
    """

    name: str
    cpu_s: float
    cpu_s_per_million: float
    cpu_s_per_million_net: float
    wall_s: float
    active_s: float
    events_per_s: float
    events_per_s_active: float
    peak_rss_mb: float
    idle_cpu_s: float
    idle_wall_s: float


def figures(name: str, events: int, cost: Cost, active_s: float, idle: Cost) -> Figures:
    """The figures of a run over so many events."""
    return Figures(
        name=name,
        cpu_s=cost.cpu_s,
        cpu_s_per_million=cost.cpu_s / events * 1e6,
        cpu_s_per_million_net=(cost.cpu_s - idle.cpu_s) / events * 1e6,
        wall_s=cost.wall_s,
        active_s=active_s,
        events_per_s=events / cost.wall_s,
        events_per_s_active=events / active_s,
        peak_rss_mb=cost.peak_rss_mb,
        idle_cpu_s=idle.cpu_s,
        idle_wall_s=idle.wall_s,
    )


def checked(cost: Cost, what: str) -> Cost:
    """The cost of a run that succeeded; exits when it did not."""
    if cost.exit_code != 0:
        raise SystemExit(f"{what} failed ({cost.exit_code}):\n{cost.stdout[-1000:]}{cost.stderr[-4000:]}")
    return cost


def measure_bare(servers: str, events: int, folder: Path) -> Figures:
    """The bare consumer over the whole topic."""
    command = [sys.executable, "-m", "benchmarks.bare_consume", servers, TOPIC]
    idle = checked(run_measured([*command, "0"], folder, name="bare-idle"), "the bare consumer")
    cost = checked(run_measured([*command, str(events)], folder, name="bare"), "the bare consumer")
    return figures("bare consume", events, cost, json.loads(cost.stdout)["first_to_last_s"], idle)


def measure_run(
    servers: str,
    events: int,
    processes: int,
    folder: Path,
    *,
    module: str = MODULE,
    environment: Mapping[str, str] | None = None,
) -> Figures:
    """`featurestore run` of `module` in a fresh data_dir, `folder`/data; then once more with nothing left to read."""
    data_dir = folder / "data"
    shutil.rmtree(data_dir, ignore_errors=True)
    settings = {
        **(environment or {}),
        "FEATURESTORE_KAFKA__BOOTSTRAP_SERVERS": servers,
        "FEATURESTORE_STORE__DATA_DIR": str(data_dir),
        "FEATURESTORE_WORKER__METRICS_PORT": "0",
    }
    command = [sys.executable, "-m", "featurestore", "run", module, "--until-end", "--apply"]
    if processes > 1:
        command += ["--processes", str(processes)]
    cost = checked(run_measured(command, folder, name="run", environment=settings), "the run")
    idle = checked(run_measured(command, folder, name="again", environment=settings), "the second run")
    active_s = cost.wall_s - time_until(cost, "worker_started")
    return figures(f"featurestore run ({processes})", events, cost, active_s, idle)


def time_until(cost: Cost, event: str) -> float:
    """Seconds from a run's start to the first such event in its log; 0 when there is none."""
    for line in cost.stderr.splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError):
            entry = json.loads(line)
            if entry["event"] == event:
                when = datetime.fromisoformat(entry["timestamp"].replace("Z", "+00:00"))
                return when.timestamp() - cost.started_at_s
    return 0.0


@contextlib.contextmanager
def broker_at(servers: str | None) -> Iterator[str]:
    """A broker's address: the given one, or a real Kafka of our own for as long as this lasts."""
    if servers:
        yield servers
        return
    from tests.kafka_broker import KafkaBroker, why_not

    if reason := why_not():
        raise SystemExit(f"no Kafka broker: {reason}; or give one with --bootstrap-servers")
    with KafkaBroker(heap="1g") as broker:
        yield broker.bootstrap_servers


def median(runs: list[Figures], field: str) -> float:
    """The middle value of one figure over repeated runs."""
    return float(statistics.median(getattr(run, field) for run in runs))


def table(runs: list[Figures], bare: list[Figures]) -> str:
    """The runs as a table for people."""
    gross, net = median(bare, "cpu_s_per_million"), median(bare, "cpu_s_per_million_net")
    head = ("", "CPU-s/M", "× bare", "net CPU-s/M", "× bare", "wall s", "events/s", "net events/s", "peak MB")
    lines = [head]
    for run in runs:
        lines.append(
            (
                run.name,
                f"{run.cpu_s_per_million:.2f}",
                f"{run.cpu_s_per_million / gross:.2f}",
                f"{run.cpu_s_per_million_net:.2f}",
                f"{run.cpu_s_per_million_net / net:.2f}",
                f"{run.wall_s:.2f}",
                f"{run.events_per_s:,.0f}",
                f"{run.events_per_s_active:,.0f}",
                f"{run.peak_rss_mb:.0f}",
            )
        )
    return aligned(lines)


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.standard_job", description=__doc__)
    parser.add_argument("--events", type=int, default=2_000_000)
    parser.add_argument("--partitions", type=int, default=4)
    parser.add_argument("--processes", type=int, default=1, help="of `featurestore run`")
    parser.add_argument("--repeat", type=int, default=1, help="measure so often, in turn; the median counts")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--bootstrap-servers", help="a broker that is there; its topic is filled once and kept")
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    parser.add_argument("--record", action="store_true", help="write the table into benchmarks/README.md")
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it: data, outputs, logs")
    return parser.parse_args(argv)


def main(argv: list[str]) -> int:
    """Load, measure, check, report. Exits with 1 when the rows are wrong."""
    options = arguments_of(argv)
    os.chdir(ROOT)
    folder = options.keep or Path(tempfile.mkdtemp(prefix="standard-job-"))
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    job = [str(options.events), str(options.partitions), str(options.seed)]
    # All that needs arrays runs in processes of its own: this one stays small (benchmarks/measure.py).
    try:
        with broker_at(options.bootstrap_servers) as servers:
            load = [sys.executable, "-m", "benchmarks.load", servers, *job]
            loaded = checked(run_measured(load, folder, name="load"), "loading the topic")
            print(f"{options.events:,} messages in the topic after {loaded.wall_s:.1f} s", file=sys.stderr)
            load_before = os.getloadavg()[0]  # a busy machine measures something else
            bare_runs, store_runs = [], []
            for _ in range(options.repeat):
                bare_runs.append(measure_bare(servers, options.events, folder))
                store_runs.append(measure_run(servers, options.events, options.processes, folder))
        offline = folder / "data" / "offline"
        check = run_measured([sys.executable, "-m", "benchmarks.check", str(offline), *job], folder, name="check")
        result = json.loads(check.stdout) if check.stdout.startswith("{") else {"wrong": [check.stderr[-4000:]]}
    finally:
        if not options.keep:
            shutil.rmtree(folder, ignore_errors=True)
    runs = [*bare_runs, *store_runs]
    print(table(runs, bare_runs))
    ratios = {
        field: median(store_runs, field) / median(bare_runs, field)
        for field in ("cpu_s_per_million", "cpu_s_per_million_net")
    }
    report = {
        "machine": machine(),
        "load_before": load_before,
        "events": options.events,
        "partitions": options.partitions,
        "ratio_to_bare": ratios,
        "runs": [asdict(run) for run in runs],
        "check": result,
    }
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.write_text(text + "\n")
    right = not result["wrong"] and check.exit_code == 0
    if options.record and right:
        record(table(runs, bare_runs), f"{options.events:,} events, {options.partitions} partitions")
    for complaint in result["wrong"]:
        print(f"WRONG {complaint}", file=sys.stderr)
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
