"""Runs the application: one listening socket, one or more processes, each with a thread that follows the
stores.

The processes take connections from the one socket. They end with their parent, and one that dies is started
again.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import structlog
import uvicorn

from featurestore.errors import ConfigError, FeatureStoreError
from featurestore.serving.app import build_app
from featurestore.serving.limits import Limits
from featurestore.serving.metrics import ServingMetrics
from featurestore.serving.service import Clock, FeatureService
from featurestore.serving.transport import OneWriteProtocol

log = structlog.get_logger(__name__)

GRACEFUL_SHUTDOWN_S = 5
RESTART_DELAY_S = 1.0
_POLL_S = 0.1
_ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PROBLEM_REPEAT_S = 30.0


@dataclass(frozen=True)
class ServerOptions:
    """What a server process needs to know; crosses to child processes."""

    data_dir: Path
    host: str = "127.0.0.1"
    port: int = 6566
    processes: int = 1
    clock: Clock = "wall"
    refresh_interval_s: float = 0.1
    limits: Limits = field(default_factory=Limits)


def serve(options: ServerOptions, *, on_listening: Callable[[str], None] = lambda url: None) -> None:
    """Serve until SIGTERM or SIGINT, then finish the requests under way.

    on_listening: told the URL once the socket is bound (port 0 takes a free one). Raises ConfigError when the
    address can't be bound.
    """
    listener = bind(options.host, options.port)
    with listener:
        on_listening(url_of(listener))
        if options.processes == 1:
            run_worker(options, listener)
        else:
            _supervise(options, listener)


def bind(host: str, port: int) -> socket.socket:
    """A bound socket. Raises ConfigError when the port is in use or the host is not ours."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            # Listening now, not only in the server: a second server on the port fails here, before it starts.
            listener.listen(2048)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(
            f"can't listen on {host}:{port}: {error.strerror}",
            hint="stop the server that is running there, or choose another --port ([serving] port)",
        ) from error
    listener.set_inheritable(True)
    return listener


def url_of(listener: socket.socket) -> str:
    """The address of a bound socket as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_worker(options: ServerOptions, listener: socket.socket, parent: Connection | None = None) -> None:
    """Serve in this process. parent: ends this process when its other end closes."""
    metrics = ServingMetrics()
    service = FeatureService(options.data_dir, clock=options.clock, observe=metrics.read)
    stop = threading.Event()
    follower = threading.Thread(target=follow, args=(service, options.refresh_interval_s, stop))
    config = uvicorn.Config(
        build_app(service, metrics, options.limits),
        http=OneWriteProtocol,
        loop="auto",
        lifespan="off",
        ws="none",
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACEFUL_SHUTDOWN_S,
    )
    server = _Server(config)
    if parent is not None:
        threading.Thread(target=_end_with_parent, args=(server, parent), daemon=True).start()
    problem = follow_once(service, check=True)
    if problem:
        log.warning("refresh_failed", error=problem)
    follower.start()
    try:
        server.run(sockets=[listener])
    finally:
        stop.set()
        follower.join()
        service.close()


def follow(service: FeatureService, interval_s: float, stop: threading.Event) -> None:
    """Refresh the service every `interval_s` until `stop`; a problem is logged, the last state serves on."""
    told: dict[str, float] = {}
    while not stop.wait(interval_s):
        problem = follow_once(service)
        now_s = time.monotonic()
        if problem and now_s - told.get(problem, float("-inf")) > _PROBLEM_REPEAT_S:
            told = {problem: now_s}
            log.warning("refresh_failed", error=problem)


def follow_once(service: FeatureService, *, check: bool = False) -> str | None:
    """Refresh once; what went wrong, if anything did."""
    try:
        service.refresh(check=check)
    except (FeatureStoreError, OSError) as error:
        return str(error)
    return None


class _Server(uvicorn.Server):
    """uvicorn's server, which after a graceful end returns instead of raising the signal again."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self.handle_exit) for number in _ENDING_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _end_with_parent(server: uvicorn.Server, parent: Connection) -> None:
    try:
        parent.recv()
    except EOFError:
        server.should_exit = True


def _child(options: ServerOptions, listener: socket.socket, parent: Connection) -> None:
    # Ctrl-C goes to the whole group: the parent tells its children by closing the pipe.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_worker(options, listener, parent)


def _supervise(options: ServerOptions, listener: socket.socket) -> None:
    context = multiprocessing.get_context("spawn")
    # A plain flag: setting an Event in a signal handler can deadlock with the wait that it interrupts.
    ending: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        ending.append(number)

    previous = {number: signal.signal(number, on_signal) for number in _ENDING_SIGNALS}
    with tempfile.TemporaryDirectory(prefix="featurestore-metrics-") as folder:
        # Read when a child imports prometheus-client: the children then share their metrics through files.
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        children: list[tuple[multiprocessing.process.BaseProcess, Connection]] = []

        def start() -> None:
            theirs, ours = context.Pipe(duplex=False)
            child = context.Process(target=_child, args=(options, listener, theirs), daemon=True)
            child.start()
            theirs.close()
            children.append((child, ours))

        try:
            for _ in range(options.processes):
                start()
            checked_s = time.monotonic()
            while not ending:
                time.sleep(_POLL_S)
                if time.monotonic() - checked_s < RESTART_DELAY_S:
                    continue
                checked_s = time.monotonic()
                for child, pipe in list(children):
                    if not child.is_alive():
                        log.error("server_process_died", pid=child.pid, exit_code=child.exitcode)
                        children.remove((child, pipe))
                        pipe.close()
                        start()
        finally:
            for _, pipe in children:
                pipe.close()
            for child, _ in children:
                child.join(GRACEFUL_SHUTDOWN_S + 2)
                if child.is_alive():
                    child.kill()
            del os.environ["PROMETHEUS_MULTIPROC_DIR"]
            for number, handler in previous.items():
                signal.signal(number, handler)
