"""Commands of the CLI in processes of their own, forked from one that has its modules imported already.

Importing costs more than most commands do, and the tests run hundreds. What happens from `main()` on, the exit code and
the streams are those of `python -m featurestore`; nothing is shared but the code that was imported.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

_PRELOADED = [
    "featurestore.cli.app",
    "featurestore.cli.status_report",
    "featurestore.definitions.discover",
    "featurestore.definitions.resolve",
    "featurestore.offline.inventory",
    "featurestore.registry.review",
    "featurestore.serving.service",
    "featurestore.training.training_set",
    "featurestore.worker.run",
]
"""None of them starts a thread when it is imported: a fork would lose it."""


def run_command(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], timeout_s: float
) -> subprocess.CompletedProcess[str]:
    """`python -m featurestore` with these arguments in a folder, to its end.

    Raises subprocess.TimeoutExpired after `timeout_s`, when it was killed.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    with tempfile.TemporaryDirectory() as streams:
        paths = [Path(streams, name) for name in ("stdout", "stderr")]
        process = context.Process(target=_main, args=(list(arguments), str(folder), dict(environment), paths))
        process.start()
        process.join(timeout_s)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(list(arguments), timeout_s, *(path.read_bytes() for path in paths))
        stdout, stderr = (path.read_text() for path in paths)
    assert process.exitcode is not None
    return subprocess.CompletedProcess(list(arguments), process.exitcode, stdout, stderr)


def _main(arguments: list[str], folder: str, environment: dict[str, str], streams: list[Path]) -> None:
    for number, path in zip((1, 2), streams, strict=True):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(descriptor, number)
        os.close(descriptor)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.dont_write_bytecode = bool(environment.get("PYTHONDONTWRITEBYTECODE"))
    sys.argv = ["featurestore", *arguments]
    sys.path[0:0] = [folder, *filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))]
    from featurestore.cli import main

    try:
        main()
    finally:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
