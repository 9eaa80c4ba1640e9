"""Run a program and weigh it: CPU, memory, time. Standard library only.

The measuring process must stay small: Linux counts the memory of the process that starts a child into the
child's peak, until the child is larger.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Cost:
    """What a run took. cpu_s: user and system, with all its children; peak_rss_mb: of its largest process."""

    exit_code: int
    wall_s: float
    cpu_s: float
    peak_rss_mb: float
    started_at_s: float
    stdout: str
    stderr: str


def run_measured(
    command: Sequence[str], folder: Path, *, name: str, environment: Mapping[str, str] | None = None
) -> Cost:
    """Run `command` to its end. Its output goes to files `name`.out and `name`.err in `folder`.

    started_at_s: the wall clock at its start, for comparison with its log.
    """
    out_path, err_path = folder / f"{name}.out", folder / f"{name}.err"
    with out_path.open("wb") as out, err_path.open("wb") as err:
        started_at_s = time.time()
        began = time.monotonic()
        process = subprocess.Popen(
            list(command),
            stdout=out,
            stderr=err,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **(environment or {})},
        )
        _, status, usage = os.wait4(process.pid, 0)
        wall_s = time.monotonic() - began
    process.returncode = os.waitstatus_to_exitcode(status)
    # KiB on Linux, bytes on macOS.
    unit = 1_000_000 if sys.platform == "darwin" else 1_000_000 / 1024
    return Cost(
        process.returncode,
        wall_s,
        usage.ru_utime + usage.ru_stime,
        usage.ru_maxrss / unit,
        started_at_s,
        out_path.read_text(errors="replace"),
        err_path.read_text(errors="replace"),
    )


def machine() -> dict[str, str | int]:
    """What the figures were measured on."""
    model = platform.processor() or platform.machine()
    cpu_info = Path("/proc/cpuinfo")
    if cpu_info.exists():
        for line in cpu_info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    memory_gb = 0
    if hasattr(os, "sysconf"):
        memory_gb = round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30)
    return {
        "cpu": model,
        "cores": os.cpu_count() or 0,
        "memory_gb": memory_gb,
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }
