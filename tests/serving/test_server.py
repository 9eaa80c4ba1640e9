"""The server as a process: sockets, processes, signals."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest

from featurestore.errors import ConfigError
from featurestore.serving.server import GRACEFUL_SHUTDOWN_S, bind
from tests.serving.support import NOON, ROOT, answers, event, eventually, register, serve_command, write_store

REQUEST = json.dumps({"features": ["card_activity:count_10m"], "entities": {"card_id": ["c1"]}})


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    register(tmp_path)
    write_store(tmp_path, [event(at_us=NOON)])
    return tmp_path


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_gracefully(data_dir: Path, ending: signal.Signals) -> None:
    with serve_command(data_dir, "--clock", "event") as (process, url):
        answer = httpx.post(f"{url}/get-online-features", content=REQUEST)
        assert answer.json()["results"][1]["values"] == [1]
        process.send_signal(ending)
        assert process.wait(10) == 0


@pytest.mark.parametrize("processes", ["1", "2"])
def test_what_is_under_way_is_finished_while_it_ends_and_ready_says_so_first(data_dir: Path, processes: str) -> None:
    options = ["--clock", "event", "--processes", processes]
    with (
        serve_command(data_dir, *options, FEATURESTORE_SERVING__DRAIN_DELAY="1s") as (process, url),
        httpx.Client(base_url=url) as kept,
        socket.create_connection(address_of(url), timeout=15) as slow,
    ):
        assert kept.get("/ready").status_code == 200
        head = f"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-length: {len(REQUEST)}\r\n\r\n"
        slow.sendall(f"{head}{REQUEST[:10]}".encode())
        process.send_signal(signal.SIGTERM)
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 503, within_s=0.8)
        draining = kept.post("/get-online-features", content=REQUEST)
        assert draining.status_code == 200, "reads are answered until the port is closed"
        assert draining.headers["connection"] == "close"
        eventually(lambda: refuses(url), within_s=3)
        slow.sendall(REQUEST[10:].encode())
        answer = slow.makefile("rb").read().decode()
        assert answer.startswith("HTTP/1.1 200")
        assert '"values":[1]' in answer
        assert process.wait(5) == 0


def test_a_request_that_never_ends_does_not_hold_it_up_for_ever(data_dir: Path) -> None:
    with (
        serve_command(data_dir, "--processes", "2") as (process, url),
        socket.create_connection(address_of(url), timeout=15) as stuck,
    ):
        stuck.sendall(b"POST /get-online-features HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        eventually(lambda: answers(url))
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
        assert time.monotonic() - began < GRACEFUL_SHUTDOWN_S + 4


def test_several_processes_share_the_port_and_their_metrics(data_dir: Path) -> None:
    with serve_command(data_dir, "--clock", "event", "--processes", "2") as (process, url):
        for _ in range(30):
            # A new connection each time, so that both processes get some.
            answer = httpx.post(f"{url}/get-online-features", content=REQUEST)
            assert answer.json()["results"][1]["values"] == [1]
        text = httpx.get(f"{url}/metrics").text
        assert "featurestore_request_duration_seconds_count 30.0" in text
        assert 'featurestore_freshness_seconds{view="card_activity"}' in text
        assert len(children_of(process.pid)) >= 2
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0


def test_the_processes_end_with_their_parent(data_dir: Path) -> None:
    with serve_command(data_dir, "--processes", "2") as (process, url):
        children = children_of(process.pid)
        assert len(children) >= 2
        process.kill()
        process.wait()
        eventually(lambda: not any(alive(child) for child in children))
        with pytest.raises(httpx.TransportError):
            httpx.get(f"{url}/health")


def test_a_process_that_dies_is_started_again(data_dir: Path) -> None:
    with serve_command(data_dir, "--processes", "2") as (process, url):
        before = workers_of(process.pid)
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: len(set(workers_of(process.pid)) - set(before)) == 1)
        eventually(lambda: httpx.get(f"{url}/health").status_code == 200)


def test_no_counter_goes_back_when_a_process_dies(data_dir: Path) -> None:
    with serve_command(data_dir, "--clock", "event", "--processes", "2") as (process, url):
        for _ in range(20):
            httpx.post(f"{url}/get-online-features", content=REQUEST)
        before = workers_of(process.pid)
        os.kill(before[0], signal.SIGKILL)
        eventually(lambda: len(set(workers_of(process.pid)) - set(before)) == 1)
        for _ in range(10):
            httpx.post(f"{url}/get-online-features", content=REQUEST)
        for _ in range(4):  # whichever answers
            assert "featurestore_request_duration_seconds_count 30.0" in httpx.get(f"{url}/metrics").text


@pytest.mark.parametrize("processes", ["1", "2"])
def test_scratch_folders_go_with_the_server_and_a_killed_ones_with_the_next(
    data_dir: Path, tmp_path_factory: pytest.TempPathFactory, processes: str
) -> None:
    scratch = tmp_path_factory.mktemp("tmp")
    options = ["--processes", processes]

    def ours() -> set[Path]:
        return set(scratch.glob("*featurestore-*"))

    with serve_command(data_dir, *options, TMPDIR=str(scratch)) as (process, url):
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200)
        eventually(lambda: len([path for path in ours() if "-reader-" in path.name]) == int(processes))
        # All at once, as when the machine's memory runs out: nobody is left to tidy up.
        for pid in [*workers_of(process.pid), process.pid]:
            os.kill(pid, signal.SIGKILL)
        process.wait()
    abandoned = ours()
    assert abandoned
    with serve_command(data_dir, *options, TMPDIR=str(scratch)) as (process, url):
        eventually(lambda: httpx.get(f"{url}/ready").status_code == 200)
        assert not ours() & abandoned
        process.send_signal(signal.SIGTERM)
        assert process.wait(15) == 0
    assert ours() == set()


def test_a_port_in_use_is_told_with_the_way_out(data_dir: Path) -> None:
    with bind("127.0.0.1", 0) as holder:
        port = holder.getsockname()[1]
        command = [sys.executable, "-m", "featurestore", "serve", "--port", str(port)]
        ended = subprocess.run(
            [*command, "--data-dir", str(data_dir)], capture_output=True, text=True, cwd=ROOT, timeout=60
        )
    assert ended.returncode == 1
    assert f"can't listen on 127.0.0.1:{port}" in ended.stderr
    assert "--port" in ended.stderr
    assert ended.stdout == ""


def test_a_host_that_is_not_ours_is_told() -> None:
    with pytest.raises(ConfigError, match=r"can't listen on 192\.0\.2\.1:0"):
        bind("192.0.2.1", 0)


def test_a_missing_data_dir_is_served_as_not_ready(tmp_path: Path) -> None:
    with serve_command(tmp_path / "nothing") as (_, url):
        ready = httpx.get(f"{url}/ready")
        assert ready.status_code == 503
        assert "there is no registry" in ready.json()["reason"]
    assert not (tmp_path / "nothing").exists(), "a reader makes nothing"


def address_of(url: str) -> tuple[str, int]:
    parsed = httpx.URL(url)
    assert parsed.port is not None
    return parsed.host, parsed.port


def refuses(url: str) -> bool:
    try:
        socket.create_connection(address_of(url), timeout=1).close()
    except OSError:
        return True
    return False


def children_of(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def workers_of(pid: int) -> list[int]:
    """Children that serve; the other one is multiprocessing's own."""
    return [child for child in children_of(pid) if "spawn_main" in command_line(child)]


def command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except FileNotFoundError:
        return ""


def alive(pid: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return False
