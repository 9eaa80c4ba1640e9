"""A project folder around a topic of a test's own, its commands as real processes, and what its stores hold."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import polars.testing

from featurestore.compile.keys import encoded_key
from featurestore.compile.view import CompiledView, compile_view
from featurestore.examples import BY_NAME, DEFAULT, Example
from featurestore.offline import read_dead_letters, read_events, read_late, read_snapshots
from featurestore.online.reader import OnlineReader
from featurestore.registry import Registry
from featurestore.shard.protocol import ViewCounts
from tests.commands import run_command

ROOT = Path(__file__).parents[2]


@dataclass
class Project:
    """A folder with an example's definitions on `topic`. Runs of one project share its stores.

    variables: of the environment of its commands.
    """

    folder: Path
    servers: str
    topic: str
    example: Example = BY_NAME[DEFAULT]
    variables: dict[str, str] = field(default_factory=dict)

    @classmethod
    def create(
        cls,
        folder: Path,
        servers: str,
        topic: str,
        *,
        data_dir: Path | None = None,
        example: Example = BY_NAME[DEFAULT],
        idle_timeout: str = "1h",
    ) -> Project:
        """Copy an example into `folder`, reading `topic`.

        With the default idle_timeout idleness is out of play, so results are the log's alone.
        """
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copytree(ROOT / "schemas", folder / "schemas", dirs_exist_ok=True)
        shutil.copytree(ROOT / "pipelines", folder / "pipelines", dirs_exist_ok=True)
        text = (ROOT / example.module).read_text()
        text = text.replace(f'topic="{example.source}"', f'topic="{topic}"')
        text, changed = re.subn(r'idle_timeout="\w+"', f'idle_timeout="{idle_timeout}"', text)
        assert changed == 1
        (folder / example.module).write_text(text)
        place = f'[store]\ndata_dir = "{data_dir or folder / "data"}"\n'
        (folder / "featurestore.toml").write_text(
            f'{place}[kafka]\nbootstrap_servers = "{servers}"\n[worker]\nmetrics_port = 0\ncommit_interval = "200ms"\n'
        )
        return cls(folder, servers, topic, example)

    @property
    def data_dir(self) -> Path:
        return Path(
            next(line for line in (self.folder / "featurestore.toml").read_text().splitlines() if "data_dir" in line)
            .split("=")[1]
            .strip()
            .strip('"')
        )

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, "-m", "featurestore", *arguments]

    def environment(self) -> dict[str, str]:
        return {**os.environ, "PYTHONPATH": str(ROOT), **self.variables}

    def call(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        return run_command(arguments, self.folder, self.environment(), timeout)

    def run_until_end(self, *options: str, timeout: float = 60) -> None:
        """Bring the stores to the topic's end; fails the test when the run fails."""
        done = self.call("run", self.example.module, "--apply", "--until-end", *options, timeout=timeout)
        if done.returncode != 0:
            log = self.folder / "failed-run.log"
            log.write_text(done.stderr)
            raise AssertionError(f"{log}: {done.stderr[-3000:]}")

    def start(self, *arguments: str, log: Path) -> subprocess.Popen[bytes]:
        """Start a command that stays; its log goes to a file."""
        with log.open("ab") as file:
            return subprocess.Popen(
                self.command(*arguments),
                cwd=self.folder,
                env=self.environment(),
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def views(self) -> dict[str, CompiledView]:
        registry = Registry.open(self.data_dir / "registry" / "registry.db", create=False)
        views = registry.views()
        compiled = {
            view.spec.name: compile_view(
                view.spec, registry.source(view.spec.source), view_id=view.view_id, version=view.version
            )
            for view in views
        }
        registry.close()
        return compiled


@dataclass(frozen=True)
class Stores:
    """What the stores hold, comparable between runs: frames sorted, revisions and times of creation left out."""

    events: pl.DataFrame
    late: pl.DataFrame
    dead: pl.DataFrame
    snapshots: dict[tuple[str, str], pl.DataFrame]
    online: dict[str, pl.DataFrame]
    counts: dict[str, ViewCounts]


def read_stores(project: Project) -> Stores:
    """Read everything; asserts on the way that no row is there twice and revisions have no gaps."""
    offline, source = project.data_dir / "offline", project.example.source
    place = ["_partition", "_offset"]
    events = read_events(offline, source).sort(place)
    late, dead = read_late(offline, source), read_dead_letters(offline, source)
    for frame in (events, late, dead):
        assert not frame.height or not frame.select(place).is_duplicated().any(), "a message is archived twice"
    reader = OnlineReader(project.data_dir, source)
    reader.refresh()
    snapshots, online, counts = {}, {}, {}
    for name, view in project.views().items():
        keys = [key.name for key in view.spec.join_keys]
        for dataset in view.datasets:
            every = read_snapshots(offline, name, view.version, dataset.name)
            if every.height:
                assert not every.select(*keys, "window_end", "revision").is_duplicated().any(), "a revision twice"
                chain = every.group_by(*keys, "window_end").agg(pl.col("revision").sort())
                assert chain.select((pl.col("revision").list.last() + 1 == pl.col("revision").list.len()).all()).item()
            rows = read_snapshots(offline, name, view.version, dataset.name, keys)
            drop = ["revision", "created_timestamp"]
            snapshots[(name, dataset.name)] = (
                rows.drop(drop, strict=False).sort(*keys, "window_end") if rows.height else rows
            )
        entities = events.select(encoded_key(view.spec.join_keys).alias("key")).drop_nulls().unique().sort("key")
        as_of = reader.latest_us(view)
        read = reader.read(view, entities["key"].to_list(), list(view.features), as_of)
        columns = {feature: column.values for feature, column in read.columns.items()}
        statuses = {f"{feature} status": column.statuses for feature, column in read.columns.items()}
        online[name] = entities.with_columns(
            **{k: pl.Series(v, strict=False) for k, v in {**columns, **statuses}.items()}
        )
        total = ViewCounts()
        for state in reader.states(view):
            total = total.plus(state.counts)
        counts[name] = total
        assert total.applied + total.filtered + total.null_key == events.height, "the counters of a view add up"
    reader.close()
    return Stores(
        events.drop("arrival_time"),
        late.sort(place) if late.height else late,
        dead.sort(place) if dead.height else dead,
        snapshots,
        online,
        counts,
    )


def assert_same_stores(one: Stores, other: Stores) -> None:
    """Everything equal; floats within 1e-9 of their size."""
    same_frame(one.events, other.events)
    for kind in ("late", "dead"):
        a, b = getattr(one, kind), getattr(other, kind)
        assert a.height == b.height
        if a.height:
            assert a.select("_partition", "_offset").equals(b.select("_partition", "_offset"))
    assert one.counts == other.counts
    assert one.snapshots.keys() == other.snapshots.keys()
    for dataset, rows in one.snapshots.items():
        same_frame(rows, other.snapshots[dataset])
    for view, rows in one.online.items():
        same_frame(rows, other.online[view])


def same_frame(a: pl.DataFrame, b: pl.DataFrame) -> None:
    pl.testing.assert_frame_equal(a, b, rel_tol=1e-9, abs_tol=1e-7)


def log_events(log: Path, name: str) -> list[dict[str, object]]:
    """Lines of a JSON log with this event."""
    found = []
    for line in log.read_text(errors="replace").splitlines() if log.exists() else []:
        if line.startswith("{"):
            try:
                entry = json.loads(line)
            except ValueError:
                continue
            if entry.get("event") == name:
                found.append(entry)
    return found
