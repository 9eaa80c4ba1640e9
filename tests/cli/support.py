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


_SESSION = """
import contextlib, importlib, io, json, pathlib, sys
sys.dont_write_bytecode = True
from featurestore.cli import main

def run(arguments):
    out, err, code = io.StringIO(), io.StringIO(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(arguments)
        except SystemExit as end:
            code = end.code
    if isinstance(code, str):
        err.write(code)
        code = 1
    return [code or 0, out.getvalue(), err.getvalue()]

def write(files):
    for name, text in files.items():
        path = pathlib.Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        sys.modules.pop(path.stem, None)
    importlib.invalidate_caches()

print(json.dumps([run(step) if isinstance(step, list) else write(step) for step in json.load(sys.stdin)]))
"""


def session(project: Path, *steps: list[str] | dict[str, str], timeout: float = 60) -> list[tuple[int, str, str]]:
    """Run commands one after another in one process, which starts once: exit code, stdout and stderr of each.

    A step that is a dict writes files by name; a module is read anew after that.
    """
    done = subprocess.run(
        [sys.executable, "-c", _SESSION],
        cwd=project,
        input=json.dumps(steps),
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return [(code, out, err) for code, out, err in filter(None, json.loads(done.stdout))]
