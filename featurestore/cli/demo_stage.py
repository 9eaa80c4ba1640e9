"""The demo's stage: its project folder and its processes: broker, worker, server; all gone when it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType, TracebackType

from featurestore.config import ENV_PREFIX
from featurestore.errors import FeatureStoreError, StoreError
from featurestore.examples import Example, write_project
from featurestore.sources.embedded import EMBEDDED, EmbeddedAddress, embedded_address

STOP_WAIT_S = 15.0
ENDING_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stage:
    """Processes of the demo of one example in its folder. Everything they print goes to `logs/NAME.log`.

    While it is entered a signal to end raises KeyboardInterrupt, except where that would leave a process behind.
    """

    def __init__(self, folder: Path, example: Example) -> None:
        self.folder = folder
        self._example = example
        self.data_dir = folder / "data"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._deferring = False
        self._interrupted = False

    def __enter__(self) -> Stage:
        if not all((self.folder / name).exists() for name in self._example.files):
            write_project(self.folder, self._example)
        (self.folder / "logs").mkdir(exist_ok=True)
        for number in ENDING_SIGNALS:
            signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._deferring = True
        # The worker first: it drains what it has read while the broker still answers.
        for name in ("worker", "server", "broker"):
            self.stop(name)

    def start(self, name: str, *arguments: str, **variables: str) -> None:
        """Start a command of the same command line in the folder, with further environment variables."""
        # Neither settings of another project in the caller's environment nor those that the folder has been given since
        # must lead the demo to a real broker.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(ENV_PREFIX)}
        own = {
            f"{ENV_PREFIX}KAFKA__BOOTSTRAP_SERVERS": EMBEDDED,
            f"{ENV_PREFIX}STORE__DATA_DIR": str(self.data_dir),
            f"{ENV_PREFIX}WORKER__METRICS_PORT": "0",
        }
        environment = {**inherited, **own, **variables}
        self._deferring = True
        with (self.folder / "logs" / f"{name}.log").open("wb") as log:
            self._children[name] = subprocess.Popen(
                [sys.executable, "-m", "featurestore", *arguments],
                cwd=self.folder,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                # Ctrl-C in the terminal is the demo's to handle: it stops its processes in order.
                start_new_session=True,
            )
        self._deferring = False
        if self._interrupted:
            raise KeyboardInterrupt

    def stop(self, name: str) -> None:
        """End a process in order, and by force when it does not listen."""
        child = self._children.pop(name, None)
        if child is None or child.poll() is not None:
            return
        child.send_signal(signal.SIGTERM)
        try:
            child.wait(STOP_WAIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def check(self) -> None:
        """Raise StoreError when one of the processes has ended, with the end of its log.

        Raises KeyboardInterrupt again after a signal: raised within a library's callback, it may have been swallowed.
        """
        if self._interrupted:
            raise KeyboardInterrupt
        for name, child in self._children.items():
            if child.poll() is not None:
                log = self.folder / "logs" / f"{name}.log"
                tail = "\n".join(log.read_text(errors="replace").splitlines()[-5:])
                raise StoreError(f"the demo's {name} ended with {child.returncode}:\n{tail}", hint=f"see {log}")

    def wait(self, condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
        """Wait until a condition holds while all processes live. Raises StoreError when it does not come true."""
        deadline = time.monotonic() + seconds
        while not condition():
            self.check()
            if time.monotonic() > deadline:
                raise StoreError(f"the demo waited {seconds:.0f} s for {what}", hint=f"see {self.folder / 'logs'}")
            time.sleep(0.05)

    def broker_address(self) -> EmbeddedAddress | None:
        """The embedded broker's address once it is up."""
        try:
            return embedded_address(self.data_dir)
        except FeatureStoreError:
            return None

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        self._interrupted = True
        if not self._deferring:
            raise KeyboardInterrupt
