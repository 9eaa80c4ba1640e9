"""The supervisor of a cluster of worker processes on this machine.

A child's death ends the others (bytewax can't go on without one) and restarts the whole cluster, with backoff; a drain
ends all of them in order.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import structlog

from featurestore.config import Settings
from featurestore.errors import StoreError
from featurestore.worker.plan import RunPlan, write_plan

log = structlog.get_logger()

BACKOFF_S = (0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
HEALTHY_AFTER_S = 60.0
"""A cluster that ran so long begins again with the shortest backoff."""

KILL_AFTER_S = 10.0
"""How long the others may take to notice a death before they are killed."""


def supervise(
    make_plan: Callable[[], RunPlan],
    settings: Settings,
    processes: int,
    lock_descriptors: Sequence[int],
    *,
    draining: Callable[[], bool],
    stderr: int | None = None,
    max_restarts: int | None = None,
) -> None:
    """Run the cluster until it ends by itself or is drained.

    make_plan: called before every start; it reads the stores anew. lock_descriptors: inherited by the children, so that
    a source stays locked while any of them lives. stderr: a descriptor for the children's log, None for our own.
    max_restarts: None restarts for ever; past it raises StoreError.
    """
    failures = 0
    while True:
        plan = make_plan()
        began = time.monotonic()
        codes = _run_cluster(plan, settings, processes, lock_descriptors, stderr)
        if all(code == 0 for code in codes):
            if not plan.replan_requested() or draining():
                return
            continue
        if draining():
            raise StoreError(f"worker processes ended with {codes} while draining", hint="see the log lines above")
        failures = 1 if time.monotonic() - began > HEALTHY_AFTER_S else failures + 1
        if max_restarts is not None and failures > max_restarts:
            raise StoreError(f"worker processes ended with {codes}, {failures} times", hint="see the log lines above")
        wait_s = BACKOFF_S[min(failures, len(BACKOFF_S)) - 1]
        log.warning("cluster_restart", exit_codes=codes, failures=failures, wait_s=wait_s)
        until = time.monotonic() + wait_s
        while time.monotonic() < until and not draining():
            time.sleep(0.05)
        if draining():
            return


def _run_cluster(
    plan: RunPlan, settings: Settings, processes: int, lock_descriptors: Sequence[int], stderr: int | None
) -> list[int]:
    read_end, write_end = os.pipe()
    with _reserved_addresses(processes) as addresses:
        # The run's own folder: a killed run leaves it to the next one, which removes it.
        folder = Path(plan.drain_marker).parent
        plan_path, settings_path = folder / "plan.json", folder / "settings.json"
        write_plan(plan, plan_path)
        settings_path.write_text(settings.model_dump_json())
        settings_path.chmod(0o600)
        children = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "featurestore.worker.child", str(plan_path), str(settings_path)),
                    *(str(index), str(read_end), *addresses),
                ],
                pass_fds=(read_end, *lock_descriptors),
                stdin=subprocess.DEVNULL,
                # Our log is on stderr; on stdout bytewax tells of connections that it tries again.
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                cwd=plan.base_dir,
                # An interrupt from the terminal reaches the supervisor, which drains; children would take it twice.
                start_new_session=True,
            )
            for index in range(processes)
        ]
        log.info("cluster_started", pids=[child.pid for child in children])
        try:
            return _wait(children)
        finally:
            for child in children:
                if child.poll() is None:
                    child.kill()
                    child.wait()
            os.close(read_end)
            os.close(write_end)


def _wait(children: Sequence[subprocess.Popen[bytes]]) -> list[int]:
    deadline: float | None = None
    while True:
        codes = [child.poll() for child in children]
        if all(code is not None for code in codes):
            return [code for code in codes if code is not None]
        if any(code not in (None, 0) for code in codes):
            deadline = deadline or time.monotonic() + KILL_AFTER_S
            if time.monotonic() > deadline:
                return [-9 if code is None else code for code in codes]
        time.sleep(0.05)


@contextmanager
def _reserved_addresses(count: int) -> Iterator[list[str]]:
    """host:port for the listener of each process, which nobody else gets before the process has come so far.

    A process takes seconds to start, and on a busy machine a connection of another program may be given a port that was
    only looked up: the cluster would fail and start again.
    """
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            each.bind(("127.0.0.1", 0))
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        if sys.platform != "linux":
            # Only Linux lets a second socket listen where the first one, which does not listen, is bound.
            for each in sockets:
                each.close()
        yield addresses
    finally:
        for each in sockets:
            each.close()
