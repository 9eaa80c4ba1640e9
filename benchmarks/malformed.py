"""What bad messages cost: `python -m benchmarks.malformed` (benchmarks/README.md).

The standard job's pipeline over a clean topic and over one with a share of bad messages, in turn, each with a broker of
its own. A run whose dead letters are not exactly the bad messages makes the command fail.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

from benchmarks.measure import run_measured
from benchmarks.report import aligned
from benchmarks.standard_job import ROOT, TOPIC, Figures, checked, measure_run, median

PARTITIONS = 4
SHARES = (0.0, 0.01, 0.5)


def bad_rows(events: int, share: float) -> int:
    """How many of the messages are bad: every 1/share-th."""
    return len(range(0, events, round(1 / share))) if share else 0


def fill(servers: str, events: int, share: float) -> None:
    """Make and fill the topic; bad messages are cut off, have text for a number, or are no UTF-8, in turn."""
    from confluent_kafka import Producer

    from benchmarks.events import make_events, message_values
    from benchmarks.load import create_topic

    create_topic(servers, TOPIC, PARTITIONS)
    values = [value.encode() for value in message_values(make_events(events, 7))]
    for number in range(0, events, round(1 / share)) if share else ():
        value = values[number]
        values[number] = (value[:-9], value.replace(b'"amount":', b'"amount":"x",'), b"\xff" + value)[number % 3]
    producer = Producer(
        {"bootstrap.servers": servers, "enable.idempotence": True, "queue.buffering.max.messages": events + 1}
    )
    for partition in range(PARTITIONS):
        producer.produce_batch(TOPIC, [{"value": value} for value in values[partition::PARTITIONS]], partition)
    if producer.flush(120):
        raise SystemExit("messages were not delivered")


def dead_letters(data_dir: Path) -> int:
    """How many the run has written, by the program's own account, in a process of its own."""
    code = "import sys; from pathlib import Path; from featurestore.offline.read import archive_counts; "
    code += "print(sum(archive_counts(Path(sys.argv[1]), 'payments').dead_letters.values()))"
    done = subprocess.run([sys.executable, "-c", code, str(data_dir / "offline")], capture_output=True, check=True)
    return int(done.stdout)


def main(argv: list[str]) -> int:
    """Fill the topics, measure in turn, report. Exits with 1 when a count is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=300_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--fill", nargs=2, metavar=("SERVERS", "SHARE"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    os.chdir(ROOT)
    if options.fill:
        fill(options.fill[0], options.events, float(options.fill[1]))
        return 0
    from tests.kafka_broker import KafkaBroker

    folder = Path(tempfile.mkdtemp(prefix="malformed-"))
    runs: dict[float, list[Figures]] = {share: [] for share in SHARES}
    wrong = []
    try:
        with ExitStack() as stack:
            brokers = {share: stack.enter_context(KafkaBroker(heap="256m")) for share in SHARES}
            for share, broker in brokers.items():
                command = [sys.executable, "-m", "benchmarks.malformed", "--events", str(options.events)]
                command += ["--fill", broker.bootstrap_servers, str(share)]
                checked(run_measured(command, folder, name="fill"), "filling the topic")
            for _ in range(options.repeat):
                for share, broker in brokers.items():
                    runs[share].append(measure_run(broker.bootstrap_servers, options.events, 1, folder))
                    found, made = dead_letters(folder / "data"), bad_rows(options.events, share)
                    if found != made:
                        wrong.append(f"{found:,} dead letters of {made:,} bad messages")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    clean = median(runs[0.0], "cpu_s_per_million_net")
    lines = [("bad", "CPU-s/M", "net CPU-s/M", "× clean", "net events/s")]
    for share, measured in runs.items():
        net = median(measured, "cpu_s_per_million_net")
        gross, rate = median(measured, "cpu_s_per_million"), median(measured, "events_per_s_active")
        lines.append((f"{share:.0%}", f"{gross:.2f}", f"{net:.2f}", f"{net / clean:.2f}", f"{rate:,.0f}"))
    print(aligned(lines))
    for complaint in wrong:
        print(f"WRONG {complaint}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
