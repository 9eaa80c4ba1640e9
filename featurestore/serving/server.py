"""Runs the application: a listening socket, one or more processes (`supervisor.py`), in each a thread that follows
the stores.
"""

from __future__ import annotations

import gc
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType

import structlog
import uvicorn
from starlette.types import ASGIApp

from featurestore.errors import ConfigError, FeatureStoreError
from featurestore.registry import registry_file
from featurestore.serving.app import build_app
from featurestore.serving.limits import Limits
from featurestore.serving.metrics import ServingMetrics
from featurestore.serving.service import CHECK_INTERVAL_S, Clock, FeatureService
from featurestore.serving.supervisor import supervise
from featurestore.serving.transport import OneWriteProtocol
from featurestore.serving.usage import CLOSE_S, FLUSH_INTERVAL_S, Usage

log = structlog.get_logger(__name__)

GRACEFUL_SHUTDOWN_S = 5
"""How long requests under way may take once the port is closed."""
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PROBLEM_REPEAT_S = 30.0


@dataclass(frozen=True)
class ServerOptions:
    """What a server process needs to know; crosses to child processes."""

    data_dir: Path
    registry_place: Path | str | None = None
    host: str = "127.0.0.1"
    port: int = 6566
    processes: int = 1
    clock: Clock = "wall"
    refresh_interval_s: float = 0.1
    drain_delay_s: float = 0.5
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
            supervise(options.processes, partial(_child, options), listener, give_up_s=options.drain_delay_s + 7)


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
    return listener


def _child(options: ServerOptions, listener: socket.socket, parent: Connection) -> None:
    # Until it serves: Ctrl-C goes to the whole group, and the parent tells its children anyway.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    run_worker(options, listener, parent)


def url_of(listener: socket.socket) -> str:
    """The address of a bound socket as a URL."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def run_worker(options: ServerOptions, listener: socket.socket, parent: Connection | None = None) -> None:
    """Serve in this process until a signal or, where there is one, until the parent closes its end of the pipe."""
    metrics = ServingMetrics()
    usage = Usage(options.registry_place or registry_file(options.data_dir))
    service = FeatureService(
        options.data_dir,
        clock=options.clock,
        observe=metrics.read,
        registry_place=options.registry_place,
        usage=usage,
    )
    stop = threading.Event()
    # A daemon: a registry that does not answer must not hold up the end.
    recorder = threading.Thread(target=_record, args=(usage, stop), name="usage", daemon=True)
    followers = [
        threading.Thread(target=follow, args=(service.refresh, options.refresh_interval_s, stop), name="follow"),
        threading.Thread(target=follow, args=(service.reload, CHECK_INTERVAL_S, stop), name="registry"),
    ]
    server = _Server(options.drain_delay_s)
    server.load(build_app(service, metrics, options.limits, draining=server.is_draining))
    if parent is not None:
        threading.Thread(target=_drain_with_parent, args=(server, parent), name="parent", daemon=True).start()
    for once in (service.reload, service.refresh):
        problem = follow_once(once)
        if problem:
            log.warning("refresh_failed", error=problem)
    # What is there now stays: left to itself the collector walks over all of it again and again while reads wait.
    gc.collect()
    gc.freeze()
    for thread in (*followers, recorder):
        thread.start()
    try:
        server.run(sockets=[listener])
    finally:
        stop.set()
        for follower in followers:
            follower.join()
        recorder.join(CLOSE_S)
        service.close()


def _record(usage: Usage, stop: threading.Event) -> None:
    """Write what was read, again and again and once more at the end."""
    follow(usage.flush, FLUSH_INTERVAL_S, stop)
    follow_once(usage.flush)


def follow(step: Callable[[], None], interval_s: float, stop: threading.Event) -> None:
    """Take a step every `interval_s` until `stop`; a problem is logged, the last state serves on."""
    told: dict[str, float] = {}
    while not stop.wait(interval_s):
        problem = follow_once(step)
        now_s = time.monotonic()
        if problem and now_s - told.get(problem, float("-inf")) > _PROBLEM_REPEAT_S:
            told = {problem: now_s}
            log.warning("refresh_failed", error=problem)


def follow_once(step: Callable[[], None]) -> str | None:
    """Take a step once; what went wrong, if anything did."""
    try:
        step()
    except (FeatureStoreError, OSError) as error:
        return str(error)
    return None


class _Server(uvicorn.Server):
    """uvicorn's server with a drain in two steps.

    First /ready says 503 and answers close their connection, while everything is still served; after `delay_s` the
    port is closed, and what is under way is finished. A second signal ends it at once. It returns then, instead of
    raising the signal again.
    """

    def __init__(self, delay_s: float) -> None:
        self._delay_s = delay_s
        self._draining_since_s: float | None = None

    def load(self, app: ASGIApp) -> None:
        """Set the application, which may ask `is_draining`."""
        super().__init__(
            uvicorn.Config(
                app,
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
        )

    def is_draining(self) -> bool:
        """Whether the end has been asked for."""
        return self._draining_since_s is not None

    def drain(self) -> None:
        """Begin to end; from any thread or a signal's handler."""
        if self._draining_since_s is None:
            self._draining_since_s = time.monotonic()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """A signal: the first one drains, the second one ends at once."""
        if self.is_draining():
            self.should_exit = self.force_exit = True
        self.drain()

    async def on_tick(self, counter: int) -> bool:
        """Called by the main loop ten times a second; whether to leave it."""
        since = self._draining_since_s
        if since is not None and time.monotonic() - since >= self._delay_s:
            self.should_exit = True
        return await super().on_tick(counter)

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle signals while serving, where this is the main thread."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = {number: signal.signal(number, self.handle_exit) for number in ENDING_SIGNALS}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)


def _drain_with_parent(server: _Server, parent: Connection) -> None:
    with suppress(EOFError, OSError):
        parent.recv()
    server.drain()
