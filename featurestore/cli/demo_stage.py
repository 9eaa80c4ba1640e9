"""The demo's stage: its project folder and its processes: broker, worker, server; all gone when it is left."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from featurestore.cli.init import TEMPLATE, write_project
from featurestore.cli.status_report import read_states
from featurestore.definitions.specs import SourceSpec
from featurestore.errors import FeatureStoreError, StoreError
from featurestore.registry import RegisteredView, Registry
from featurestore.sources.embedded import EmbeddedAddress, embedded_address

STOP_WAIT_S = 15.0


class Stage:
    """Processes of the demo in its folder. Everything they print goes to `logs/NAME.log`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._views: dict[str, list[RegisteredView]] = {}
        self._sources: dict[str, SourceSpec] = {}

    def __enter__(self) -> Stage:
        if not all((self.folder / name).exists() for name in TEMPLATE):
            write_project(self.folder)
        (self.folder / "logs").mkdir(exist_ok=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # The worker first: it drains what it has read while the broker still answers.
        for name in ("worker", "server", "broker"):
            self.stop(name)

    def start(self, name: str, *arguments: str) -> None:
        """Start a command of the same command line in the folder."""
        environment = {**os.environ, "FEATURESTORE_WORKER__METRICS_PORT": "0"}
        for key in ("FEATURESTORE_KAFKA__BOOTSTRAP_SERVERS", "FEATURESTORE_STORE__DATA_DIR"):
            environment.pop(key, None)
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
        """Raise StoreError when one of the processes has ended, with the end of its log."""
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

    def processed(self, source: str, generation: str) -> dict[int, int]:
        """Next offset by partition that every view and shard has applied, of one topic generation."""
        if not self._views:
            registry = Registry.open(self.data_dir / "registry" / "registry.db", create=False)
            try:
                self._views = {source: [view for view in registry.views() if view.spec.source == source]}
                self._sources = {source: registry.source(source)}
            finally:
                registry.close()
        least: dict[int, int] = {}
        for states in read_states(self.data_dir, self._sources[source], self._views[source]).values():
            for state in states:
                for key, fence in state.fences.items():
                    name, _, partition = key.rpartition("/")
                    if name == generation:
                        number = int(partition)
                        least[number] = min(least.get(number, fence.next_offset), fence.next_offset)
        return least
