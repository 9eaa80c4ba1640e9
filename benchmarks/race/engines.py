"""Runs of the engines: how each is started, measured and checked."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import run_measured
from benchmarks.race.shapes import Shape
from benchmarks.standard_job import ROOT, Figures, checked, figures, measure_run

PARTITIONS = 4
SEED = 1
IDLE_EVENTS = 4
REQUIREMENTS = Path(__file__).with_name("quixstreams.txt")
QUIXSTREAMS_PYTHON = (3, 11)
"""The oldest that quixstreams runs on."""


@dataclass(frozen=True)
class Result:
    """One engine's run of a shape. rows: right ones by the oracle; wrong: what it found."""

    shape: str
    engine: str
    events: int
    figures: Figures
    rows: int
    wrong: list[str]


def load(servers: str, shape: Shape, events: int, folder: Path) -> None:
    """Fill the shape's topic with so many events, unless it is filled."""
    command = [sys.executable, "-m", "benchmarks.load", servers, str(events), str(PARTITIONS), str(SEED)]
    checked(run_measured([*command, shape.stream, shape.topic(events)], folder, name="load"), "loading the topic")


def check(shape: Shape, events: int, engine: str, path: Path, folder: Path) -> tuple[int, list[str]]:
    """Rows that should be there, and complaints."""
    job = [shape.name, str(events), str(PARTITIONS), str(SEED), engine, str(path)]
    cost = run_measured([sys.executable, "-m", "benchmarks.race.check", *job], folder, name="check")
    if not cost.stdout.startswith("{"):
        raise SystemExit(f"the check of {shape.name} by {engine} failed:\n{cost.stderr[-4000:]}")
    found = json.loads(cost.stdout)
    return found["rows"], found["wrong"]


def race_ours(servers: str, shape: Shape, events: int, folder: Path) -> Result:
    """Ours: `featurestore run --until-end` in one process."""
    environment = {"RACE_SHAPE": shape.name, "RACE_TOPIC": shape.topic(events)}
    run = measure_run(servers, events, 1, folder, module="benchmarks.race.pipeline", environment=environment)
    rows, wrong = check(shape, events, "featurestore", folder / "data" / "offline", folder)
    shutil.rmtree(folder / "data")
    return Result(shape.name, "featurestore", events, run, rows, wrong)


def race_bytewax(servers: str, shape: Shape, events: int, folder: Path) -> Result:
    """bytewax's windows."""
    rows_file = folder / "bytewax.jsonl"
    environment = {"RACE_SHAPE": shape.name, "RACE_SERVERS": servers, "RACE_ROWS": str(rows_file)}
    command = [sys.executable, "-m", "bytewax.run", "benchmarks.race.bytewax_job:flow"]
    costs = []
    for count in (IDLE_EVENTS, events):
        load(servers, shape, count, folder)
        own = {**environment, "RACE_TOPIC": shape.topic(count)}
        costs.append(checked(run_measured(command, folder, name="bytewax", environment=own), "bytewax"))
    idle, cost = costs
    rows, wrong = check(shape, events, "bytewax", rows_file, folder)
    return Result(shape.name, "bytewax", events, figures("bytewax", events, cost, cost.wall_s, idle), rows, wrong)


def race_quixstreams(servers: str, shape: Shape, events: int, folder: Path) -> Result:
    """quixstreams' windows, by the Python of `quixstreams_python`."""
    rows_file, costs = folder / "quixstreams.jsonl", []
    for count in (IDLE_EVENTS, events):
        load(servers, shape, count, folder)
        state = folder / f"quixstreams-{shape.name}-{count}"
        script = str(Path(__file__).with_name("quixstreams_job.py"))
        job = [shape.name, servers, shape.topic(count), str(count), str(rows_file), str(state)]
        command = [str(quixstreams_python()), script, *job]
        costs.append(checked(run_measured(command, folder, name="quixstreams"), "quixstreams"))
    idle, cost = costs
    rows, wrong = check(shape, events, "quixstreams", rows_file, folder)
    run = figures("quixstreams", events, cost, cost.wall_s, idle)
    return Result(shape.name, "quixstreams", events, run, rows, wrong)


PEERS = {"bytewax": race_bytewax, "quixstreams": race_quixstreams}
"""By name, the other engines."""


def quixstreams_python() -> Path:
    """The Python of quixstreams' own environment, which may not be there yet; another pin is another environment."""
    pin = hashlib.sha256(REQUIREMENTS.read_bytes()).hexdigest()[:12]
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    return ROOT / ".cache" / "race" / f"quixstreams-{version}-{pin}" / "bin" / "python"


def why_not(engine: str) -> str | None:
    """Why a peer can't run here without `install`, None when it can."""
    if engine == "bytewax":
        return None if importlib.util.find_spec("bytewax") else "bytewax is missing: pip install 'featurestore[worker]'"
    return None if quixstreams_python().exists() else "quixstreams is not installed: run the race with --peers once"


def install(engine: str) -> None:
    """Make a peer's environment, once. Exits when it can't be made."""
    python = quixstreams_python()
    if engine != "quixstreams" or python.exists():
        return
    if sys.version_info < QUIXSTREAMS_PYTHON:
        raise SystemExit(f"quixstreams needs Python {'.'.join(map(str, QUIXSTREAMS_PYTHON))}: use --no-peers")
    folder = python.parents[1]
    unfinished = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    for command in (
        [sys.executable, "-m", "venv", str(unfinished)],
        [str(unfinished / "bin" / "python"), "-m", "pip", "install", "-q", "-r", str(REQUIREMENTS)],
    ):
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}\nuse --no-peers to go without")
    # An environment's own Python goes by the place of its link: it runs where it is moved to.
    unfinished.rename(folder)
