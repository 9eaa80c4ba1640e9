"""A real Apache Kafka broker in KRaft mode for tests and benchmarks, from the jars that Maven fetches.

`python -m tests.kafka_broker` starts one, prints its address, and stays until it is interrupted.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient, NewTopic

HERE = Path(__file__).parent
CACHE = HERE.parent / ".cache" / "kafka"
START_TIMEOUT_S = 120


def why_not() -> str | None:
    """Why no broker can run here, None when one can."""
    missing = [tool for tool in ("java", "mvn") if shutil.which(tool) is None]
    return f"{' and '.join(missing)} missing: install Java 17 and Maven" if missing else None


def class_path() -> str:
    """The broker's jars, fetched once into the cache. Raises RuntimeError when Maven can't fetch them."""
    pom = HERE / "kafka" / "pom.xml"
    listing = CACHE / f"classpath-{hashlib.sha256(pom.read_bytes()).hexdigest()[:12]}.txt"
    if listing.exists():
        jars = listing.read_text().strip()
        if all(Path(jar).exists() for jar in jars.split(os.pathsep)):
            return jars
    CACHE.mkdir(parents=True, exist_ok=True)
    temporary = listing.with_suffix(f".{os.getpid()}")
    done = subprocess.run(
        ["mvn", "-q", "-B", "-f", str(pom), "dependency:build-classpath", f"-Dmdep.outputFile={temporary}"],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if done.returncode != 0:
        temporary.unlink(missing_ok=True)
        raise RuntimeError(f"Maven could not fetch Kafka:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    temporary.rename(listing)
    return listing.read_text().strip()


def _die_with_parent() -> None:
    """A killed test run must not leave a broker behind (Linux; elsewhere it may)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class KafkaBroker:
    """One broker with its controller. Its data outlive `stop` and `kill`, and are gone after `remove`.

    proxy_port: of a proxy in front of the broker's port `behind_proxy_port`; its clients are told to come by it. node,
    controller_ports: its number in a cluster, and the controllers' ports of all of that cluster by number.
    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        heap: str = "512m",
        proxy_port: int | None = None,
        node: int = 1,
        controller_ports: Mapping[int, int] | None = None,
    ) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="kafka-"))
        self.folder.mkdir(parents=True, exist_ok=True)
        self._heap = heap
        self._process: subprocess.Popen[bytes] | None = None
        self._port, controller_port, self.behind_proxy_port = free_ports(3)
        self.node = node
        self._controller_ports = controller_ports or {node: controller_port}
        self._proxy_port = proxy_port
        self._write_config()

    @property
    def bootstrap_servers(self) -> str:
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def _write_config(self) -> None:
        listeners = f"PLAINTEXT://127.0.0.1:{self._port},CONTROLLER://127.0.0.1:{self._controller_ports[self.node]}"
        voters = ",".join(f"{node}@127.0.0.1:{port}" for node, port in self._controller_ports.items())
        copies = len(self._controller_ports)
        advertised = f"PLAINTEXT://127.0.0.1:{self._port}"
        if self._proxy_port is not None:
            listeners += f",PROXIED://127.0.0.1:{self.behind_proxy_port}"
            advertised += f",PROXIED://127.0.0.1:{self._proxy_port}"
        (self.folder / "server.properties").write_text(
            "\n".join(
                [
                    "process.roles=broker,controller",
                    f"node.id={self.node}",
                    f"controller.quorum.voters={voters}",
                    f"listeners={listeners}",
                    f"advertised.listeners={advertised}",
                    "controller.listener.names=CONTROLLER",
                    "listener.security.protocol.map=CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT",
                    f"log.dirs={self.folder / 'data'}",
                    "num.partitions=1",
                    "auto.create.topics.enable=false",
                    f"offsets.topic.replication.factor={copies}",
                    "offsets.topic.num.partitions=1",
                    f"transaction.state.log.replication.factor={copies}",
                    f"default.replication.factor={copies}",
                    f"min.insync.replicas={(copies + 1) // 2}",
                    "transaction.state.log.min.isr=1",
                    "transaction.state.log.num.partitions=1",
                    "group.initial.rebalance.delay.ms=0",
                    # Compaction of a topic within a second, not fifteen.
                    "log.cleaner.backoff.ms=200",
                    # By default half of a small heap.
                    "log.cleaner.dedupe.buffer.size=4194304",
                ]
            )
        )

    def _java(self, main: str, *arguments: str) -> list[str]:
        options = [f"-Xmx{self._heap}", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=4"]
        return ["java", *options, "-cp", class_path(), main, *arguments]

    def start(self) -> KafkaBroker:
        """Start it (again), and wait until it answers."""
        self.launch()
        return self.wait_until_it_answers()

    def launch(self) -> None:
        """Start it (again); a broker of a cluster answers once most of them are there."""
        config = str(self.folder / "server.properties")
        if not (self.folder / "data").exists():
            subprocess.run(
                self._java("kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c", config),
                check=True,
                capture_output=True,
                timeout=120,
            )
        with (self.folder / "broker.log").open("ab") as log:
            self._process = subprocess.Popen(
                self._java("kafka.Kafka", config),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def wait_until_it_answers(self) -> KafkaBroker:
        """Raises RuntimeError with the end of its log when it does not."""
        assert self._process is not None
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                admin.list_topics(timeout=1.0)
                return self
            except KafkaException as error:
                if self._process.poll() is not None or time.monotonic() > deadline:
                    tail = (self.folder / "broker.log").read_text(errors="replace")[-2000:]
                    raise RuntimeError(f"Kafka did not start:\n{tail}") from error

    def create_topic(self, name: str, partitions: int = 1, **config: str) -> str:
        """Make a topic and wait until it is there; returns its name. config: topic settings, `_` for `.`."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        settings = {key.replace("_", "."): value for key, value in config.items()}
        admin.create_topics([NewTopic(name, num_partitions=partitions, config=settings)])[name].result(20)
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            found = admin.list_topics(topic=name, timeout=5).topics[name]
            if found.error is None and len(found.partitions) == partitions:
                return name
            time.sleep(0.05)
        raise RuntimeError(f"topic {name} did not appear")

    def delete_topic(self, name: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers, "log_level": 0})
        admin.delete_topics([name])[name].result(20)

    def stop(self) -> None:
        """Stop it in order; its data stay."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Kill it; its data stay."""
        self._end(signal.SIGKILL)

    def _end(self, how: signal.Signals) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.send_signal(how)
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        self._process = None

    def remove(self) -> None:
        """Stop it and delete its data."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> KafkaBroker:
        try:
            return self.start()
        except BaseException:
            self.remove()
            raise

    def __exit__(self, *_: object) -> None:
        self.remove()


def main() -> int:
    reason = why_not()
    if reason:
        sys.stderr.write(f"{reason}\n")
        return 1
    # Explicitly: a shell's background process begins with SIGINT ignored.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit(0))
    with KafkaBroker() as broker:
        sys.stdout.write(f"{broker.bootstrap_servers}\n")
        sys.stdout.flush()
        while True:
            signal.pause()


if __name__ == "__main__":
    sys.exit(main())
