"""Commands as real processes over the embedded broker, in a project of the example's definitions."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

from featurestore.examples.transactions import TransactionStream
from featurestore.sources.embedded import EmbeddedBroker
from featurestore.sources.produce import produce
from tests.commands import run_command

ROOT = Path(__file__).resolve().parents[2]
MODULE = "pipelines/transactions.py"


def command(project: Path, *arguments: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "FEATURESTORE_WORKER__METRICS_PORT": "0"}
    return run_command(arguments, project, environment, timeout)


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


def session(project: Path, *steps: list[str] | dict[str, str]) -> list[tuple[int, str, str]]:
    """Run commands one after another: exit code, stdout and stderr of each.

    A step that is a dict writes files by name.
    """
    found = []
    for step in steps:
        if isinstance(step, dict):
            for name, text in step.items():
                (project / name).parent.mkdir(parents=True, exist_ok=True)
                (project / name).write_text(text)
            continue
        # A module that changed within a second, and not in size, would be taken from its cached byte code.
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}
        done = run_command(step, project, environment, 60)
        found.append((done.returncode, done.stdout, done.stderr))
    return found
