"""The programs of the serving benchmark: started, waited for, ended in order."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[2]
MODULE = "benchmarks.serving.pipeline"
START_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Program:
    """A program in the background, and the file of its output."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path

    def check(self) -> None:
        """Raises SystemExit when it has ended."""
        if self.process.poll() is not None:
            raise SystemExit(f"{self.name} ended with {self.process.returncode}:\n{self.output.read_text()[-3000:]}")

    def until(self, condition: Callable[[], bool], what: str) -> None:
        """Wait until it holds; SystemExit when it does not within START_TIMEOUT_S, or when the program ends."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while not condition():
            self.check()
            if time.monotonic() > deadline_s:
                raise SystemExit(f"{self.name}: {what}: not within {START_TIMEOUT_S:.0f} s")
            time.sleep(0.1)


@contextlib.contextmanager
def program(name: str, command: list[str], folder: Path, **environment: str) -> Iterator[Program]:
    """A program in the background. It gets SIGTERM at the end; SystemExit when it has ended before."""
    output = folder / f"{name}.log"
    with output.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env={**os.environ, **environment}
        )
    running = Program(name, process, output)
    try:
        yield running
        running.check()
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def featurestore(*arguments: str) -> list[str]:
    """A command line of ours."""
    return [sys.executable, "-m", "featurestore", *arguments]


@contextlib.contextmanager
def broker(folder: Path) -> Iterator[str]:
    """The embedded broker; gives its address."""
    with program("broker", featurestore("broker", "--json", "--data-dir", str(folder / "data")), folder) as it:
        it.until(lambda: it.output.read_text().rstrip().endswith("}"), "its address")
        yield str(json.loads(it.output.read_text())["bootstrap_servers"])


@contextlib.contextmanager
def worker(folder: Path, *, commit_interval: str = "1s", events: int = 0) -> Iterator[None]:
    """`featurestore run`; ready once it has read so many events and nothing is left."""
    command = featurestore("run", MODULE, "--apply", "--data-dir", str(folder / "data"))
    environment = {
        "FEATURESTORE_WORKER__COMMIT_INTERVAL": commit_interval,
        "FEATURESTORE_WORKER__METRICS_PORT": "0",
    }
    with program(f"worker-{commit_interval}", command, folder, **environment) as it:
        it.until(lambda: "worker_started" in it.output.read_text(), "its start")
        it.until(lambda: _applied(folder) >= events, f"{events:,} events")
        yield


def _applied(folder: Path) -> int:
    status = subprocess.run(
        featurestore("status", "--json", "--data-dir", str(folder / "data")), capture_output=True, text=True, cwd=ROOT
    )
    if status.returncode:
        return -1
    return sum(view["applied"] for view in json.loads(status.stdout)["views"])


@contextlib.contextmanager
def server(folder: Path, *, processes: int = 1, refresh_interval: str = "100ms") -> Iterator[str]:
    """`featurestore serve`; gives its URL once it is ready."""
    port = free_port()
    command = featurestore("serve", "--processes", str(processes), "--port", str(port))
    environment = {"FEATURESTORE_SERVING__REFRESH_INTERVAL": refresh_interval}
    with program(f"server-{processes}", [*command, "--data-dir", str(folder / "data")], folder, **environment) as it:
        url = f"http://127.0.0.1:{port}"
        it.until(lambda: answers(f"{url}/ready"), "ready")
        time.sleep(1.0)  # every process has to be there, not only the one that answered
        yield url


@contextlib.contextmanager
def feast_server(python: Path, folder: Path, keys: Path) -> Iterator[str]:
    """Feast's own server with the same cards; gives its URL."""
    port = free_port()
    home = folder / "feast"
    home.mkdir()
    script = str(Path(__file__).with_name("feast_server.py"))
    command = [str(python), script, str(home), str(keys), str(port)]
    with program("feast", command, folder, PYTHONPATH="", FEAST_USAGE="False") as it:
        url = f"http://127.0.0.1:{port}"
        it.until(lambda: answers(f"{url}/health"), "an answer")
        time.sleep(1.0)
        yield url


@contextlib.contextmanager
def stream(servers: str, events_per_s: int, folder: Path) -> Iterator[None]:
    """Events at an even rate while this lasts."""
    command = [sys.executable, "-m", "benchmarks.serving.feed", servers, str(events_per_s), "3600"]
    with program("stream", command, folder):
        time.sleep(3.0)  # commits have found their rhythm
        yield


def wrk(url: str, entities: int, connections: int, seconds: int, keys: Path, features: list[str]) -> dict[str, float]:
    """One run of wrk over these keys. Raises SystemExit when any request failed."""
    if shutil.which("wrk") is None:
        raise SystemExit("wrk is missing: apt-get install wrk")
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "10s"]
    script = str(Path(__file__).with_name("post.lua"))
    command += ["-s", script, f"{url}/get-online-features", "--", str(entities), str(keys), *features]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode or not done.stdout.strip():
        raise SystemExit(f"wrk failed: {done.stdout}{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    if found["failed"]:
        raise SystemExit(f"{found['failed']} of {found['requests']} requests to {url} failed")
    return found


def answers(url: str) -> bool:
    """Whether a GET is answered with 200."""
    try:
        return httpx.get(url, timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
