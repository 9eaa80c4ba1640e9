"""The embedded broker: librdkafka's mock cluster, for development, demos and tests on one machine.

It lives in memory as long as its process. It creates topics on first use, keeps about 5 MB or 100,000
messages a partition, and knows no topic ids: the generation made at its start stands for them.
"""

from __future__ import annotations

import json
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import msgspec
import structlog
from confluent_kafka import Producer

from featurestore.errors import BrokerUnavailableError, StoreLockedError

log = structlog.get_logger()

EMBEDDED = "embedded"
FILE_NAME = "broker.json"


class EmbeddedAddress(msgspec.Struct, frozen=True):
    """Where the embedded broker listens, its generation, and the process that hosts it."""

    bootstrap_servers: str
    generation: str
    pid: int


class EmbeddedBroker:
    """Hosts the embedded broker while entered; `<data_dir>/broker.json` tells others its address.

    Raises StoreLockedError when another living process hosts one in the same data_dir.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / FILE_NAME
        self._client: Producer | None = None
        self.address: EmbeddedAddress | None = None

    def __enter__(self) -> EmbeddedBroker:
        running = read_address(self._path)
        if running is not None and _alive(running.pid):
            raise StoreLockedError(
                f"process {running.pid} hosts an embedded broker for {self._path.parent} already",
                hint="use that one, stop it, or set another [store] data_dir",
            )
        self._client = Producer({"test.mock.num.brokers": 1, "bootstrap.servers": "", "log_level": 0})
        brokers = self._client.list_topics(timeout=10).brokers.values()
        servers = ",".join(f"{broker.host}:{broker.port}" for broker in brokers)
        self.address = EmbeddedAddress(servers, uuid.uuid4().hex[:12], os.getpid())
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{FILE_NAME}.{os.getpid()}")
        temporary.write_text(json.dumps(msgspec.to_builtins(self.address)))
        temporary.rename(self._path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if read_address(self._path) == self.address:
            self._path.unlink(missing_ok=True)
        self._client = None


def read_address(path: Path) -> EmbeddedAddress | None:
    """What an address file says, None when there is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=EmbeddedAddress)
    except (OSError, msgspec.DecodeError):
        return None


def embedded_address(data_dir: Path) -> EmbeddedAddress:
    """Address of the embedded broker that a process hosts. Raises BrokerUnavailableError when none does."""
    address = read_address(data_dir / FILE_NAME)
    if address is None or not _alive(address.pid):
        raise BrokerUnavailableError(
            f"no embedded broker is running for {data_dir}",
            hint="start one with `featurestore broker`, or set [kafka] bootstrap_servers to a real one",
        )
    return address


def resolve_bootstrap(bootstrap_servers: str, data_dir: Path, *, stop: Callable[[], bool]) -> str:
    """The address to connect to: itself, or the embedded broker's, waiting for it with one log line a try.

    Raises BrokerUnavailableError when `stop` ends the waiting.
    """
    wait_s = 0.5
    while bootstrap_servers == EMBEDDED:
        try:
            return embedded_address(data_dir).bootstrap_servers
        except BrokerUnavailableError as error:
            if stop():
                raise
            log.warning("waiting_for_broker", error=error.message, hint=error.hint, retry_in_s=wait_s)
            until = time.monotonic() + wait_s
            while time.monotonic() < until and not stop():
                time.sleep(0.05)
            wait_s = min(wait_s * 2, 15.0)
    return bootstrap_servers


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
