"""The demo's child processes: the project's own commands, each with a log file, all ended in order.

They run in sessions of their own, so that Ctrl-C in the terminal reaches the demo alone, which then ends them.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

from featurestore.config import ENV_PREFIX
from featurestore.errors import StoreError
from featurestore.sources.embedded import FILE_NAME, EmbeddedAddress, read_address

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
POLL_S = 0.05
LOG_LINES_SHOWN = 5
STOP_ORDER = ("worker", "server", "broker")

_SERVING_AT = re.compile(r" at (http://\S+)")
Found = TypeVar("Found")


@dataclass(frozen=True)
class Child:
    """A running command and its log."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path


class Children:
    """Broker, worker and server of one project folder. On exit all are gone.

    check: called while something is waited for; what it raises ends the waiting.
    """

    def __init__(self, folder: Path, check: Callable[[], None]) -> None:
        self._folder = folder
        self._check = check
        self._running: list[Child] = []
        (folder / "logs").mkdir(exist_ok=True)

    def __enter__(self) -> Children:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start_broker(self, data_dir: Path) -> EmbeddedAddress:
        """Start the embedded broker; its address once it can be reached."""
        child = self._start("broker", "broker")

        def address() -> EmbeddedAddress | None:
            found = read_address(data_dir / FILE_NAME)
            return found if found is not None and found.pid == child.process.pid else None

        return self._wait(child, address)

    def start_worker(self, module: str, metrics_port: int) -> None:
        """Start one worker process, which applies the definitions first."""
        self._start("worker", "run", module, "--apply", FEATURESTORE_WORKER__METRICS_PORT=str(metrics_port))

    def start_server(self) -> str:
        """Start the server on a free port; its URL."""
        child = self._start("server", "serve", "--port", "0", "--clock", "event")

        def url() -> str | None:
            found = _SERVING_AT.search(child.log.read_text(errors="replace"))
            return found.group(1) if found else None

        return self._wait(child, url)

    def raise_if_ended(self) -> None:
        """Raises StoreError with the log's last lines when a child has ended by itself."""
        for child in self._running:
            code = child.process.poll()
            if code is not None:
                lines = child.log.read_text(errors="replace").splitlines()[-LOG_LINES_SHOWN:]
                raise StoreError(
                    "\n".join([f"the demo's {child.name} ended with code {code}:", *lines]),
                    hint=f"its whole log is {child.log}",
                )

    def stop(self) -> None:
        """End all: the worker commits what it has read, the server finishes its requests, the broker goes last."""
        for child in sorted(self._running, key=lambda child: STOP_ORDER.index(child.name)):
            _end(child)
        self._running.clear()

    def _start(self, name: str, *arguments: str, **variables: str) -> Child:
        # Settings of another project in the caller's environment must not lead the demo to a real broker.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(ENV_PREFIX)}
        log = self._folder / "logs" / f"{name}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [sys.executable, "-m", "featurestore", *arguments],
                cwd=self._folder,
                env={**inherited, "FEATURESTORE_WORKER__METRICS_PORT": "0", **variables},
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        child = Child(name, process, log)
        self._running.append(child)
        return child

    def _wait(self, child: Child, look: Callable[[], Found | None]) -> Found:
        until = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < until:
            self._check()
            self.raise_if_ended()
            found = look()
            if found is not None:
                return found
            time.sleep(POLL_S)
        raise StoreError(
            f"the demo's {child.name} did not start within {START_TIMEOUT_S:.0f} s", hint=f"see {child.log}"
        )


def _end(child: Child) -> None:
    if child.process.poll() is None:
        child.process.send_signal(signal.SIGTERM)
        try:
            child.process.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
