"""The registry's commands and a server's start with 10,000 features: `python -m benchmarks.registry`
(benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from benchmarks.measure import run_measured
from benchmarks.registry.project import SOURCES, write_project
from benchmarks.report import aligned, record

ROOT = Path(__file__).resolve().parents[2]
MOST_S = 2.0
"""What each may take, as a whole process."""
GIVE_UP_S = 60.0
HEAD = ("", "wall s min", "median", "CPU s min", "median", "peak MB")
FEATURESTORE = [sys.executable, "-m", "featurestore"]

Figures = tuple[float, float, float]
"""Wall and CPU seconds, peak MB."""


def arguments_of(argv: list[str]) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.registry", description=__doc__)
    parser.add_argument("--views", type=int, default=500)
    parser.add_argument("--features", type=int, default=20, help="of each view")
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--record", action="store_true", help="write the table into benchmarks/README.md")
    return parser.parse_args(argv)


def command(folder: Path, *arguments: str) -> Figures:
    """A command as a whole process, its output in a file. Raises SystemExit when it fails."""
    cost = run_measured([*FEATURESTORE, *arguments], folder, name=arguments[0])
    if cost.exit_code:
        raise SystemExit(f"featurestore {' '.join(arguments)} ended with {cost.exit_code}:\n{cost.stderr}")
    return cost.wall_s, cost.cpu_s, cost.peak_rss_mb


def server_start(folder: Path) -> Figures:
    """`featurestore serve` from its start until /ready says 200; CPU and memory with its end."""
    began = time.monotonic()
    process = subprocess.Popen([*FEATURESTORE, "serve", "--port", "0"], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = process.stdout.readline().rsplit(" ", 1)[-1].strip()
        while not _is_ready(url):
            if time.monotonic() - began > GIVE_UP_S:
                raise SystemExit(f"the server is not ready after {GIVE_UP_S:.0f} s")
            time.sleep(0.005)
        wall_s = time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    return wall_s, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024 / 1_000_000


def _is_ready(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/ready", timeout=5) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def measured(folder: Path, modules: list[str], repeat: int) -> dict[str, list[Figures]]:
    """Every command so often, in turn."""
    jobs: dict[str, Callable[[], Figures]] = {
        "plan, nothing changed": lambda: command(folder, "plan", *modules),
        "list": lambda: command(folder, "list"),
        "list features": lambda: command(folder, "list", "features"),
        "search amount 1h": lambda: command(folder, "search", "amount", "1h"),
        "show VIEW": lambda: command(folder, "show", "activity_0001"),
        "serve, until /ready": lambda: server_start(folder),
    }
    found: dict[str, list[Figures]] = {name: [] for name in jobs}
    for _ in range(repeat):
        for name, job in jobs.items():
            found[name].append(job())
    return found


def main(argv: list[str]) -> int:
    """Make the project, measure, report."""
    options = arguments_of(argv)
    load_before = os.getloadavg()[0]  # a busy machine measures something else
    folder = Path(tempfile.mkdtemp(prefix="registry-benchmark-"))
    os.environ["PYTHONPATH"] = str(ROOT)
    # An installation has its byte code: the first command writes it, unmeasured.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PYTHONPYCACHEPREFIX"] = str(folder / "bytecode")
    try:
        modules = write_project(folder, options.views, options.features)
        os.chdir(folder)
        command(folder, "plan", *modules)
        first = command(folder, "apply", *modules)
        stores = [sys.executable, "-m", "benchmarks.registry.stores", str(folder / "data")]
        subprocess.run(stores, check=True)
        found = {"apply, the first time": [first], **measured(folder, modules, options.repeat)}
    finally:
        os.chdir(ROOT)
        shutil.rmtree(folder, ignore_errors=True)
    lines: list[tuple[str, ...]] = [HEAD]
    for name, costs in found.items():
        wall, cpu, peak = zip(*costs, strict=True)
        seconds = (min(wall), statistics.median(wall), min(cpu), statistics.median(cpu))
        lines.append((name, *(f"{value:.2f}" for value in seconds), f"{max(peak):.0f}"))
    text = aligned(lines)
    print(text)
    if options.record:
        job = (
            f"{options.views:,} views of {options.features} features, {SOURCES} sources, {options.views // 10} services"
        )
        record(text, f"{job}; {options.repeat} times each; load {load_before:.1f} before", "registry")
    slow = [name for name, costs in found.items() if min(wall for wall, _, _ in costs) > MOST_S]
    if slow:
        print(f"more than {MOST_S:g} s: {', '.join(slow)}", file=sys.stderr)
    return 1 if slow else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
