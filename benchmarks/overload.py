"""More than a worker can take: `python -m benchmarks.overload` (benchmarks/README.md).

A backlog of which every other event is of one card, worked off on the machine's disk and on one that is made slow, with
a server that is asked all the time; then a million cards never seen before within a minute. A count that is wrong makes
the command fail.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.measure import run_measured
from benchmarks.report import aligned, record
from benchmarks.standard_job import MODULE, ROOT, broker_at, checked

PARTITIONS = 4
READ_EVERY_S = 0.02
CARDS = [f"card_{number:06d}" for number in range(10)]


@dataclass
class Seen:
    """What a run was seen to do.

    rss: (seconds since its start, 10^6 bytes) of the worker; reads_ms: of each answered read; waited_s: for the disk.
    """

    name: str
    events: int
    wall_s: float = 0.0
    rss: list[tuple[float, float]] = field(default_factory=list)
    reads_ms: list[float] = field(default_factory=list)
    waited_s: float = 0.0

    @property
    def rss_mb(self) -> list[int]:
        """The largest in each quarter."""
        quarters: list[float] = [0.0] * 4
        for at, megabytes in self.rss:
            quarter = min(3, int(at / max(self.wall_s, 1e-9) * 4))
            quarters[quarter] = max(quarters[quarter], megabytes)
        return [round(most) for most in quarters]

    def read_ms(self, share: float) -> float:
        """A quantile of the reads."""
        ordered = sorted(self.reads_ms)
        return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def environment(servers: str, data_dir: Path) -> dict[str, str]:
    """Settings of the commands."""
    return {
        **os.environ,
        "FEATURESTORE_KAFKA__BOOTSTRAP_SERVERS": servers,
        "FEATURESTORE_STORE__DATA_DIR": str(data_dir),
        "FEATURESTORE_WORKER__METRICS_PORT": "0",
    }


@contextmanager
def command(arguments: Sequence[str], variables: Mapping[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`featurestore` with these arguments while the block runs; ended by SIGTERM when it has not ended itself."""
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "featurestore", *arguments], env=dict(variables), stdout=file, stderr=file
        )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def watch(worker: subprocess.Popen[bytes], url: str, seen: Seen, done: float | None = None) -> None:
    """Until the worker ends, or for `done` seconds: its memory, and reads of ten cards, one of them the hot one."""
    import httpx

    page = os.sysconf("SC_PAGE_SIZE")
    body = {"features": ["card_amounts:count_1h"], "entities": {"card_id": CARDS}}
    began = time.monotonic()
    with httpx.Client(base_url=url, timeout=10) as client:
        while worker.poll() is None and (done is None or time.monotonic() - began < done):
            at = time.monotonic()
            try:
                pages = int(Path(f"/proc/{worker.pid}/statm").read_text().split()[1])
                seen.rss.append((at - began, pages * page / 1e6))
                if client.post("/get-online-features", json=body).status_code == 200:
                    seen.reads_ms.append((time.monotonic() - at) * 1e3)
            except (OSError, IndexError, httpx.TransportError):
                pass  # it has ended, or the server has not begun
            time.sleep(max(0.0, READ_EVERY_S - (time.monotonic() - at)))
    seen.wall_s = time.monotonic() - began


def status(variables: Mapping[str, str]) -> tuple[dict[str, object], dict[str, object]]:
    """What `featurestore status` says of the source and of the view."""
    done = subprocess.run(
        [sys.executable, "-m", "featurestore", "status", "--json"], env=dict(variables), capture_output=True, check=True
    )
    told = json.loads(done.stdout)
    return told["sources"][0], told["views"][0]


def complaints(variables: Mapping[str, str], seen: Seen) -> list[str]:
    """What is wrong with the counts of a run: every event read once, and every accepted one applied once."""
    source, view = status(variables)
    wrong = []
    if source["read"] != seen.events:
        wrong.append(f"{seen.name}: {source['read']:,} messages read of {seen.events:,}")
    if view["applied"] != source["accepted"]:
        wrong.append(f"{seen.name}: {view['applied']:,} events applied of {source['accepted']:,}")
    return wrong


def work_off(servers: str, events: int, folder: Path, name: str, options: argparse.Namespace) -> tuple[Seen, list[str]]:
    """One run over the backlog, on the machine's disk or a slow one."""
    from tests.faults.shims import SlowDisk
    from tests.kafka_broker import free_ports

    place = folder / name
    place.mkdir()
    variables = environment(servers, place / "data")
    seen = Seen(f"{name} disk", events)
    disk = None
    slow = {}
    if name == "slow":
        disk = SlowDisk(place, place / "data", bytes_per_s=options.megabytes_per_s * 1_000_000, sync_ms=options.sync_ms)
        slow = disk.variables
    checked(
        run_measured(
            [sys.executable, "-m", "featurestore", "apply", MODULE], place, name="apply", environment=variables
        ),
        "apply",
    )
    (port,) = free_ports(1)
    run = ["run", MODULE, "--until-end"]
    with (
        command(["serve", "--port", str(port), "--clock", "event"], variables, place / "server.log"),
        command(run, {**variables, **slow}, place / "run.log") as worker,
    ):
        watch(worker, f"http://127.0.0.1:{port}", seen)
    if worker.returncode != 0:
        raise SystemExit(f"the run failed:\n{(place / 'run.log').read_text()[-3000:]}")
    seen.waited_s = disk.totals()[1] if disk else 0.0
    return seen, complaints(variables, seen)


def new_cards(servers: str, cards: int, seconds: float, folder: Path) -> tuple[Seen, list[str], float]:
    """Cards never seen before, evenly over some seconds, past a worker that runs; and how long after the last one was
    sent all of them are in the store."""
    from tests.kafka_broker import free_ports

    place = folder / "cards"
    place.mkdir()
    variables = environment(servers, place / "data")
    seen = Seen(f"{cards:,} new cards in {seconds:.0f} s", cards)
    (port,) = free_ports(1)
    with (
        command(["run", MODULE, "--apply"], variables, place / "run.log") as worker,
        command(["serve", "--port", str(port), "--clock", "event"], variables, place / "server.log"),
    ):
        sender = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.overload", "--send", servers, str(cards), str(seconds)]
        )
        watch(worker, f"http://127.0.0.1:{port}", seen, done=seconds)
        sender.wait(120)
        sent_at = time.monotonic()
        while status(variables)[1]["applied"] != cards and time.monotonic() - sent_at < 120:
            time.sleep(0.2)
        behind_s = time.monotonic() - sent_at
    wrong = complaints(variables, seen)
    entities = status(variables)[1]["entities"]
    if entities != cards:
        wrong.append(f"{entities:,} entities of {cards:,}")
    return seen, wrong, behind_s


def send_new_cards(servers: str, cards: int, seconds: float) -> None:
    """One event of each card, at a steady pace."""
    from confluent_kafka import Producer

    from benchmarks.events import Stream, make_events, message_values

    values = message_values(make_events(cards, 3, Stream(cards=cards, card_skew=None)))
    producer = Producer({"bootstrap.servers": servers, "queue.buffering.max.messages": cards + 1, "linger.ms": 20})
    steps = max(1, int(seconds * 10))
    began = time.monotonic()
    for step in range(steps):
        for number in range(cards * step // steps, cards * (step + 1) // steps):
            producer.produce("payments", values[number], partition=number % PARTITIONS)
        producer.poll(0)
        time.sleep(max(0.0, began + (step + 1) * seconds / steps - time.monotonic()))
    if producer.flush(60):
        raise SystemExit("messages were not delivered")


def main(argv: list[str]) -> int:
    """Load, run, report. Exits with 1 when a count is wrong."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overload", description=__doc__)
    parser.add_argument("--events", type=int, default=10_000_000, help="of the backlog")
    parser.add_argument("--cards", type=int, default=1_000_000, help="never seen before, within --seconds")
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--megabytes-per-s", type=int, default=20, help="that the slow disk writes")
    parser.add_argument("--sync-ms", type=int, default=100, help="that the slow disk takes to sync a file")
    parser.add_argument("--record", action="store_true", help="write the table into benchmarks/README.md")
    parser.add_argument("--send", nargs=3, metavar=("SERVERS", "CARDS", "SECONDS"), help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    os.chdir(ROOT)
    if options.send:
        send_new_cards(options.send[0], int(options.send[1]), float(options.send[2]))
        return 0
    folder = Path(tempfile.mkdtemp(prefix="overload-"))
    load_before = os.getloadavg()[0]
    runs: list[Seen] = []
    wrong: list[str] = []
    try:
        with broker_at(None) as servers:
            job = [servers, str(options.events), str(PARTITIONS), "1", "hot_key", "payments"]
            checked(run_measured([sys.executable, "-m", "benchmarks.load", *job], folder, name="load"), "loading")
            for name in ("fast", "slow"):
                seen, bad = work_off(servers, options.events, folder, name, options)
                runs.append(seen)
                wrong += bad
        with broker_at(None) as servers:
            from benchmarks.load import create_topic

            create_topic(servers, "payments", PARTITIONS)
            seen, bad, behind_s = new_cards(servers, options.cards, options.seconds, folder)
            runs.append(seen)
            wrong += bad
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    lines = [("", "events/s", "waited for the disk s", "peak MB, by quarter", "reads", "p50 ms", "p99 ms")]
    for run in runs:
        lines.append(
            (
                run.name,
                f"{run.events / run.wall_s:,.0f}",
                f"{run.waited_s:.1f}",
                " ".join(map(str, run.rss_mb)),
                f"{len(run.reads_ms):,}",
                f"{run.read_ms(0.5):.1f}",
                f"{run.read_ms(0.99):.1f}",
            )
        )
    late = f"\n\nthe last new card was in the store {behind_s:.1f} s after it was sent"
    print(aligned(lines) + late)
    if options.record and not wrong:
        job = f"{options.events:,} events of backlog, load average before {load_before:.1f}"
        record(aligned(lines) + late, job, "overload")
    for complaint in wrong:
        print(f"WRONG {complaint}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
