"""Commands as real processes over the embedded broker, in a project of the example's definitions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from featurestore.examples.transactions import TransactionStream
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.sources.produce import produce

ROOT = Path(__file__).resolve().parents[2]
MODULE = "pipelines/transactions.py"


def command(project: Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [sys.executable, "-m", "featurestore", *arguments],
        cwd=project,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT), "FEATURESTORE_WORKER__METRICS_PORT": "0"},
    )


def answer(project: Path, *arguments: str) -> Any:
    """The JSON document of a command that must succeed."""
    done = command(project, *arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def run_until_end(project: Path, *options: str) -> None:
    """Bring the stores to the topic's end."""
    done = command(project, "run", MODULE, "--apply", "--until-end", *options)
    assert done.returncode == 0, done.stderr[-3000:]


def send(broker: EmbeddedBroker, stream: TransactionStream) -> None:
    """Send a stream of card payments to the example's topic."""
    assert broker.address is not None
    produce(broker.address.bootstrap_servers, "transactions", stream, {})
