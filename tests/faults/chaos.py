"""Steady load under random faults, the same ones in the same order for a seed, and a comparison at the end.

The seed decides on the faults, their order, targets and pauses; at which message each strikes depends on the machine.
What has to come out does not: the stores of an undisturbed run over the same topic. `make chaos SEED=7` takes minutes.
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import httpx
from confluent_kafka.admin import AdminClient, NewPartitions

from featurestore.offline.read import archive_counts
from featurestore.sources.produce import MessageSender
from tests.faults.processes import Figures, family, figures_of
from tests.faults.proxy import CuttingProxy
from tests.faults.support import MODULE, PATIENT, Load, committed_log, wait_for
from tests.integration.project import Project, assert_same_stores, log_events, read_stores
from tests.integration.test_kill import committed_events
from tests.kafka_broker import KafkaBroker

PARTITIONS, PARTITIONS_MAX = 3, 6
PROCESSES = (1, 2, 4)
AGAIN = 400
"""Every so many messages five are sent twice; without `dedupe_by` each is an event of its own."""
GARBAGE = [b"", b"{", b"\xff\xfe", b"null", b'{"card_id": 7}', b"[" * 2_000, b'{"ts": "' + b"x" * 100_000 + b'"}']


class Readers(threading.Thread):
    """Reads lifetime counts of merchants over HTTP all the time. They may never fall, whatever is killed."""

    def __init__(self, url: str, merchants: list[str]) -> None:
        super().__init__(daemon=True)
        self._url = url
        self._merchants = merchants
        self._stopped = threading.Event()
        self.counts: dict[str, int] = {}
        self.answers = self.refused = 0
        self.longest_silence_s = 0.0
        self.wrong: list[str] = []

    def run(self) -> None:
        answered = time.monotonic()
        with httpx.Client(base_url=self._url, timeout=10) as client:
            while not self._stopped.wait(0.005):
                body = {"features": ["merchant_activity:count"], "entities": {"merchant_id": self._merchants}}
                try:
                    answer = client.post("/get-online-features", json=body)
                except httpx.TransportError:
                    self.refused += 1
                    continue
                if answer.status_code == 503:  # drained, or not ready yet
                    self.refused += 1
                    continue
                self.longest_silence_s = max(self.longest_silence_s, time.monotonic() - answered)
                answered = time.monotonic()
                if answer.status_code != 200:
                    self.wrong.append(f"{answer.status_code}: {answer.text[:200]}")
                    continue
                self.answers += 1
                for merchant, value in zip(self._merchants, answer.json()["results"][1]["values"], strict=True):
                    count, before = value or 0, self.counts.get(merchant, 0)
                    if count < before:
                        self.wrong.append(f"{merchant} fell from {before} to {count}")
                    self.counts[merchant] = count

    def stop(self) -> None:
        self._stopped.set()
        self.join(30)
        assert not self.is_alive()


@dataclass
class Report:
    """What a run did and saw. faults: in order.

    early, late: by role, the largest figures of a process of it in the first and second half of the time.
    early_files, late_files: by store, the most files that it had.
    """

    seed: int
    faults: list[str] = field(default_factory=list)
    messages: int = 0
    answers: int = 0
    refused: int = 0
    longest_silence_s: float = 0.0
    early: dict[str, Figures] = field(default_factory=dict)
    late: dict[str, Figures] = field(default_factory=dict)
    early_files: Counter[str] = field(default_factory=Counter)
    late_files: Counter[str] = field(default_factory=Counter)

    def grown(self) -> list[str]:
        """What was larger by half in the second half of the time, beyond what a busy moment explains."""
        found = []
        for role, late in self.late.items():
            early = self.early[role]
            for name, spare in (("rss_mb", 100), ("threads", 20), ("open_files", 200)):
                before, after = getattr(early, name), getattr(late, name)
                if after > 1.5 * before + spare:
                    found.append(f"{role}: {name} went from {before} to {after}")
        for store, after in self.late_files.items():
            before = self.early_files[store]
            if after > 1.5 * before + 200:
                found.append(f"{store} store: files went from {before} to {after}")
        return found


class Chaos:
    """One run: a broker behind a proxy, a load, a worker of some processes, a server, a reader. Not used twice."""

    def __init__(self, folder: Path, broker: KafkaBroker, proxy: CuttingProxy, seed: int, port: int) -> None:
        self.folder = folder
        self.report = Report(seed)
        self._broker = broker
        self._proxy = proxy
        self._chance = random.Random(seed)
        self._port = port
        self._topic = broker.create_topic(f"chaos-{os.urandom(4).hex()}", PARTITIONS)
        self.project = Project.create(folder / "chaos", f"127.0.0.1:{proxy.port}", self._topic)
        config = self.project.folder / "featurestore.toml"
        config.write_text(config.read_text() + '[kafka.settings]\n"topic.metadata.refresh.interval.ms" = "1000"\n')
        self._load = Load(broker.bootstrap_servers, self._topic, PARTITIONS, seed, again=AGAIN)
        self._garbage = MessageSender(
            broker.bootstrap_servers,
            self._topic,
            PATIENT,
        )
        self._half, self._files = self.report.early, self.report.early_files
        self._started = 0
        self._processes = 1
        self._worker: subprocess.Popen[bytes] | None = None
        self._server: subprocess.Popen[bytes] | None = None
        self.readers = Readers(f"http://127.0.0.1:{port}", [f"merchant_{n:04d}" for n in range(8)])

    def run(self, seconds: float, tell: Callable[[str], None] = lambda fault: None) -> Report:
        """Cause faults for so long, then hold both stores against an undisturbed run. Raises AssertionError.

        tell: told of each fault before it is caused, and of the comparison.
        """
        began = time.monotonic()
        assert self.project.call("apply", MODULE).returncode == 0
        self._load.start()
        self._start_worker()
        self._start_server()
        try:
            wait_for(lambda: committed_events(self._log, 0) > 500, 60, self._log)
            self.readers.start()
            # Every fault comes before any comes twice.
            waiting: list[str] = []
            while time.monotonic() - began < seconds:
                if not waiting:
                    waiting = self._chance.sample(sorted(FAULTS), len(FAULTS))
                if time.monotonic() - began >= seconds / 2:
                    self._half, self._files = self.report.late, self.report.late_files
                tell(waiting[-1])
                self._cause(waiting.pop())
        finally:
            self._load.stop()
            self._end()
        tell("comparing the stores with an undisturbed run")
        self._compare()
        return self.report

    def _cause(self, fault: str) -> None:
        time.sleep(self._chance.uniform(0.0, 2.0))
        self._measure()
        assert self._load.is_alive(), "the load has died"
        before = committed_events(self._log, 0)
        log = self._log
        self.report.faults.append(fault)
        FAULTS[fault](self)
        if log != self._log:
            before = 0
        wait_for(lambda: committed_events(self._log, 0) > before + 500, 120, self._log)

    def _compare(self) -> None:
        self.project.run_until_end(timeout=900)
        other = Project.create(self.folder / "undisturbed", self._broker.bootstrap_servers, self._topic)
        other.run_until_end(timeout=900)
        stores = read_stores(self.project)
        assert_same_stores(stores, read_stores(other))
        messages = committed_log(self._broker.bootstrap_servers, self._topic, self._load.partitions)
        assert archive_counts(self.project.data_dir / "offline", "transactions").read == len(messages)
        counted = {row["key"]: row["count"] for row in stores.online["merchant_activity"].iter_rows(named=True)}
        assert self.readers.wrong == []
        for merchant, count in self.readers.counts.items():
            assert count <= counted.get(merchant, 0), f"{merchant} was served {count}, and has {counted.get(merchant)}"
        assert sum(self.readers.counts.values()) > 0, "the reader saw events"
        self.report.messages = len(messages)
        self.report.answers, self.report.refused = self.readers.answers, self.readers.refused
        self.report.longest_silence_s = self.readers.longest_silence_s

    # What is under test

    @property
    def _log(self) -> Path:
        return self.folder / f"worker-{self._started}.log"

    def _start_worker(self) -> None:
        self._started += 1
        several = ("--processes", str(self._processes)) if self._processes > 1 else ()
        self._worker = self.project.start("--log-level", "debug", "run", MODULE, *several, log=self._log)

    def _start_server(self) -> None:
        serve = ("serve", "--port", str(self._port), "--clock", "event")
        self._server = self.project.start(*serve, log=self.folder / "server.log")

    def _stop_worker(self) -> None:
        assert self._worker is not None
        self._worker.send_signal(signal.SIGTERM)
        assert self._worker.wait(90) == 0, self._log.read_text()[-3000:]

    def _end(self) -> None:
        if self.readers.is_alive():
            self.readers.stop()
        try:
            self._stop_worker()
        finally:
            for process in (self._worker, self._server):
                if process is not None and process.poll() is None:
                    process.kill()
                    process.wait()

    def _measure(self) -> None:
        assert self._worker is not None
        assert self._server is not None
        for role, process in (("worker", self._worker), ("server", self._server)):
            for pid in family(process.pid):
                found = figures_of(pid)
                if found is not None:
                    self._half[role] = found.or_more(self._half.get(role))
        for store in ("online", "offline"):
            count = sum(len(files) for _, _, files in os.walk(self.project.data_dir / store))
            self._files[store] = max(self._files[store], count)

    # Faults

    def one_process_killed(self) -> None:
        assert self._worker is not None
        clusters = log_events(self._log, "cluster_started")
        if not clusters:
            self.worker_killed()
            return
        pids = clusters[-1]["pids"]
        assert isinstance(pids, list)
        with contextlib.suppress(ProcessLookupError):
            os.kill(self._chance.choice(pids), signal.SIGKILL)
        wait_for(lambda: len(log_events(self._log, "cluster_started")) > len(clusters), 60, self._log)

    def worker_killed(self) -> None:
        assert self._worker is not None
        for pid in family(self._worker.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._worker.wait()
        self._start_worker()

    def other_number_of_processes(self) -> None:
        self._stop_worker()
        self._processes = self._chance.choice([number for number in PROCESSES if number != self._processes])
        self._start_worker()

    def server_killed(self) -> None:
        assert self._server is not None
        self._server.kill()
        self._server.wait()
        time.sleep(self._chance.uniform(0.0, 1.0))
        self._start_server()

    def broker_killed(self) -> None:
        self._broker.kill()
        time.sleep(self._chance.uniform(0.0, 2.0))
        self._broker.start()

    def broker_stopped_for_seconds(self) -> None:
        os.kill(self._broker.pid, signal.SIGSTOP)
        try:
            time.sleep(self._chance.uniform(1.0, 8.0))
        finally:
            os.kill(self._broker.pid, signal.SIGCONT)

    def connections_cut(self) -> None:
        for _ in range(5):
            self._proxy.cut()
            time.sleep(self._chance.uniform(0.0, 0.4))

    def garbage_sent(self) -> None:
        for number in range(300):
            partition = number % self._load.partitions
            self._garbage.send(self._chance.choice([None, *GARBAGE]), b"garbage", partition=partition)
        self._garbage.flush()

    def partition_added(self) -> None:
        if self._load.partitions == PARTITIONS_MAX:
            return
        wanted = self._load.partitions + 1
        admin = AdminClient({"bootstrap.servers": self._broker.bootstrap_servers, "log_level": 0})
        admin.create_partitions([NewPartitions(self._topic, wanted)])[self._topic].result(30)
        # The sender notices within half a second, and refuses messages to a partition that it has not heard of.
        time.sleep(2.0)
        self._load.partitions = wanted

    def archive_compacted(self) -> None:
        done = self.project.call("offline", "compact", "--grace", "0s")
        assert done.returncode == 0, done.stderr


FAULTS = {
    "one process killed": Chaos.one_process_killed,
    "worker killed": Chaos.worker_killed,
    "other number of processes": Chaos.other_number_of_processes,
    "server killed": Chaos.server_killed,
    "broker killed": Chaos.broker_killed,
    "broker stopped": Chaos.broker_stopped_for_seconds,
    "connections cut": Chaos.connections_cut,
    "garbage sent": Chaos.garbage_sent,
    "partition added": Chaos.partition_added,
    "archive compacted": Chaos.archive_compacted,
}


@contextlib.contextmanager
def chaos(folder: Path, seed: int, port: int) -> Iterator[Chaos]:
    """A run over a broker of its own, which is gone afterwards."""
    proxy = CuttingProxy()
    try:
        with KafkaBroker(folder / "broker", heap="256m", proxy_port=proxy.port) as broker:
            proxy.start(broker.behind_proxy_port)
            yield Chaos(folder, broker, proxy, seed, port)
    finally:
        proxy.close()
