"""Several server processes on one listening socket: one that dies is started again, all end with their parent.

They accept from the same socket, so no connection is lost with a process that dies: what it had not accepted another
one takes. (With SO_REUSEPORT each would have a queue of its own, which dies with it.)
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType

import structlog

from featurestore.online.scratch import ScratchFolder

log = structlog.get_logger(__name__)

RESTART_DELAY_S = 1.0
"""One that dies at once again is started this often."""
_POLL_S = 0.05
_METRICS_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"


@dataclass
class _Child:
    process: BaseProcess
    lifeline: Connection
    started_s: float


def supervise(
    processes: int, run: Callable[[socket.socket, Connection], None], listener: socket.socket, *, give_up_s: float
) -> None:
    """Keep so many processes running until SIGTERM or SIGINT, then let them drain.

    run: what each one does, picklable; it drains when the connection's other end closes, which the death of this
    process does as well. give_up_s: a process that has not ended so long after the signal is killed.
    """
    # A plain flag: setting an Event in a signal handler can deadlock with the wait that it interrupts.
    ending: list[int] = []

    def on_signal(number: int, frame: FrameType | None) -> None:
        ending.append(number)

    previous = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    # Read when a child imports prometheus-client: the children then share their metrics through files. Those of a
    # child that died stay, so that no counter goes back.
    metrics = ScratchFolder("metrics")
    os.environ[_METRICS_VARIABLE] = str(metrics.path)
    children: list[_Child] = []
    try:
        children.extend(_start(run, listener) for _ in range(processes))
        while not ending:
            time.sleep(_POLL_S)
            _restart_dead(children, run, listener)
    finally:
        _end(children, listener, give_up_s, ending)
        del os.environ[_METRICS_VARIABLE]
        metrics.remove()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _start(run: Callable[[socket.socket, Connection], None], listener: socket.socket) -> _Child:
    # Spawned, not forked: a child must not share the parent's RocksDB threads and metrics.
    context = multiprocessing.get_context("spawn")
    theirs, ours = context.Pipe(duplex=False)
    process = context.Process(target=run, args=(listener, theirs), daemon=True)
    process.start()
    theirs.close()
    return _Child(process, ours, time.monotonic())


def _restart_dead(
    children: list[_Child], run: Callable[[socket.socket, Connection], None], listener: socket.socket
) -> None:
    for index, child in enumerate(children):
        if child.process.is_alive() or time.monotonic() - child.started_s < RESTART_DELAY_S:
            continue
        log.error("server_process_died", pid=child.process.pid, exit_code=child.process.exitcode)
        child.lifeline.close()
        children[index] = _start(run, listener)


def _end(children: list[_Child], listener: socket.socket, give_up_s: float, signals: list[int]) -> None:
    # Our own copy: while it is open, connections would be taken on that nobody answers any more.
    listener.close()
    for child in children:
        child.lifeline.close()
    deadline_s = time.monotonic() + give_up_s
    # A second signal ends them at once.
    while len(signals) < 2 and time.monotonic() < deadline_s and any(c.process.is_alive() for c in children):
        time.sleep(_POLL_S)
    for child in children:
        if child.process.is_alive():
            log.error("server_process_killed", pid=child.process.pid)
            child.process.kill()
        child.process.join()
