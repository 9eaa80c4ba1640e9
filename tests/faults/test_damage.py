"""Truncated and flipped files: noticed, named with their path, and mended by the command that the message names.

And what is no damage but would do some: a second worker, a store of another format, rows of another definition.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from featurestore.examples.transactions import Shape, TransactionStream
from featurestore.offline.atomic import sealed
from featurestore.sources.embedded import EmbeddedBroker
from tests.conftest import TopicAt
from tests.faults.support import LONG, MODULE, change_pipeline, wait_for
from tests.integration.project import Project, Stores, assert_same_stores, log_events, read_stores
from tests.integration.road import send_to

TOPIC = "payments"
STORE = "online/transactions"
Damage = Callable[[Path], Path]


@dataclass(frozen=True)
class Killed:
    """What a killed worker left, a backup of before, and the stores that a run brings all of it to."""

    left: Path
    backup: Path
    stores: Stores


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    """Two runs of a topic, a backup after the first, then a worker that is killed after it has written snapshots."""
    folder = tmp_path_factory.mktemp("killed")
    with EmbeddedBroker(folder / "data") as broker:
        assert broker.address is not None
        topic = TopicAt("embedded", "embedded", broker.address.bootstrap_servers, TOPIC, 2)
        project = Project.create(folder / "project", "embedded", TOPIC, data_dir=folder / "data")
        stream = TransactionStream(Shape(events=6_000, cards=200, duration_s=4_000.0, too_late_share=0.01), seed=22)
        parts = [(n % 2, key, value) for n, (key, value) in enumerate(stream)]
        send_to(topic, parts[:2_000])
        project.run_until_end()
        assert project.call("backup", str(folder / "backup")).returncode == 0
        send_to(topic, parts[2_000:4_000])
        project.run_until_end()
        send_to(topic, parts[4_000:])
        synced = folder / "data" / STORE / "synced" / "process-0.json"
        before, log = synced.stat().st_mtime_ns, folder / "run.log"
        worker = project.start("run", MODULE, log=log)
        try:
            wait_for(lambda: synced.stat().st_mtime_ns > before, 60, log)
        finally:
            worker.kill()
            worker.wait()
        shutil.copytree(folder / "data", folder / "left")
        project.run_until_end()
        yield Killed(folder / "left", folder / "backup", read_stores(project))


@pytest.fixture
def copy(killed: Killed, tmp_path: Path) -> Project:
    project = Project.create(tmp_path / "project", "embedded", TOPIC, data_dir=tmp_path / "data")
    shutil.copytree(killed.left, tmp_path / "data")
    return project


def goes_on(project: Project, killed: Killed) -> None:
    """The next run comes to what a run comes to that nothing was done to."""
    project.run_until_end()
    assert_same_stores(read_stores(project), killed.stores)


def flip(path: Path, share: float = 0.5) -> Path:
    """Flip a bit of a byte in the middle of a file, or at another share of it."""
    content = bytearray(path.read_bytes())
    content[int(len(content) * share)] ^= 0x10
    path.write_bytes(content)
    return path


def cut(path: Path, share: float = 0.5) -> Path:
    """Keep so much of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def largest(data_dir: Path, pattern: str) -> Path:
    return max(data_dir.glob(pattern), key=lambda path: (path.stat().st_size, path))


def of_shards(pattern: str, harm: Callable[[Path], Path]) -> Damage:
    return lambda data_dir: harm(largest(data_dir, f"{STORE}/shard-*/{pattern}"))


def overwritten(name: str, text: str) -> Damage:
    def harm(data_dir: Path) -> Path:
        (data_dir / name).parent.mkdir(parents=True, exist_ok=True)
        (data_dir / name).write_text(text)
        return data_dir / name

    return harm


def an_intent_that_is_flipped(data_dir: Path) -> Path:
    path = data_dir / STORE / "outbox" / "process-0" / "x-00000000.intent.json"
    path.write_bytes(sealed(b'{"format_version":1,"files":[],"covered":{"1":[[2,3]]}}'))
    return flip(path)


AT_START: dict[str, Damage] = {
    "a log that is flipped": of_shards("*.log", flip),
    "a log that is cut": of_shards("*.log", cut),
    "a manifest that is flipped": of_shards("MANIFEST-*", flip),
    "a manifest that is cut": of_shards("MANIFEST-*", lambda path: cut(path, 0.95)),
    "CURRENT that is empty": of_shards("CURRENT", lambda path: cut(path, 0)),
    "CURRENT that names another": of_shards("CURRENT", lambda path: path.write_text("MANIFEST-000999\n") and path),
    "a table that is cut": of_shards("*.sst", lambda path: cut(path, 0.9)),
    "a table that is gone": of_shards("*.sst", lambda path: path.unlink() or path),
    "store.json": overwritten(f"{STORE}/store.json", "{"),
    "archive_starts.json": overwritten(f"{STORE}/archive_starts.json", "{"),
    "an intent": an_intent_that_is_flipped,
    "a verdict journal": lambda data_dir: flip(largest(data_dir, f"{STORE}/verdicts/*.judged")),
}
SHORT = {"a log that is flipped", "a log that is cut", "a manifest that is cut", "a table that is cut", "an intent"}


def refused(done: subprocess.CompletedProcess[str], path: Path, *, hint: str) -> None:
    """A command ended with an error that names the file, or its shard, and the way out; without a stack."""
    assert done.returncode == 1, done.stdout
    named = path.parent if path.parent.name.startswith("shard-") else path
    assert str(named) in done.stderr, done.stderr
    assert hint in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", sorted(AT_START if LONG else SHORT))
def test_a_damaged_online_store_is_refused_and_made_again(copy: Project, killed: Killed, name: str):
    path = AT_START[name](copy.data_dir)
    refused(copy.call("run", MODULE, "--until-end"), path, hint="featurestore rebuild")
    done = copy.call("rebuild", "transactions", "--yes", "--grace", "0s")
    assert done.returncode == 0, done.stderr
    assert "equal: " in done.stdout
    goes_on(copy, killed)


def test_a_flipped_block_of_a_table_is_found_and_no_row_is_passed_over(copy: Project, killed: Killed):
    path = flip(largest(copy.data_dir, f"{STORE}/shard-*/*.sst"), 0.2)
    refused(copy.call("offline", "verify"), path, hint="featurestore rebuild transactions")
    done = copy.call("rebuild", "transactions", "--yes", "--grace", "0s")
    assert done.returncode == 0, done.stderr
    goes_on(copy, killed)


def snapshots_of(data_dir: Path) -> Path:
    return largest(data_dir, "offline/features/card_activity/v1/tumbling_1m/*.parquet")


@pytest.mark.parametrize("harm", [flip, cut])
def test_a_damaged_snapshot_file_is_named_and_made_again(copy: Project, killed: Killed, harm: Callable[[Path], Path]):
    path = harm(snapshots_of(copy.data_dir))
    refused(copy.call("offline", "verify", "card_activity"), path, hint="featurestore rebuild SOURCE --snapshots")
    done = copy.call("rebuild", "transactions", "--snapshots", "--yes", "--grace", "0s")
    assert done.returncode == 0, done.stderr
    goes_on(copy, killed)


@pytest.mark.parametrize("harm", [flip, cut])
def test_a_damaged_archive_file_is_named_and_comes_back_from_a_backup_or_the_topic(
    copy: Project, killed: Killed, harm: Callable[[Path], Path]
):
    path = harm(largest(copy.data_dir, "offline/events/transactions/*/*/*.parquet"))
    refused(copy.call("offline", "verify"), path, hint="put a backup's copy of the file in its place")
    if harm is flip:
        done = copy.call("restore", str(killed.backup), "--yes")
        assert done.returncode == 0, done.stderr
    else:
        refused(copy.call("run", MODULE, "--until-end"), path, hint="move it away with the files of that name")
        for kind in ("events", "late", "dead_letter"):
            side = Path(str(path).replace("/events/", f"/{kind}/"))
            side.unlink(missing_ok=True)
    goes_on(copy, killed)
    verified = copy.call("offline", "verify")
    assert verified.returncode == 0, verified.stdout


def content(data_dir: Path) -> dict[str, bytes]:
    """The files that say what a store holds: neither locks nor RocksDB's own log of its doings."""
    files = (path for path in (data_dir / STORE).rglob("*") if path.is_file() and not path.name.startswith("LO"))
    return {str(path): path.read_bytes() for path in files}


def test_a_second_worker_is_refused_and_the_first_goes_on(copy: Project, killed: Killed, tmp_path: Path):
    log = tmp_path / "first.log"
    first = copy.start("run", MODULE, log=log)
    try:
        wait_for(lambda: log_events(log, "worker_started"), 60, log)
        second = copy.call("run", MODULE, "--until-end")
        assert second.returncode == 1
        assert f"source 'transactions' is being run by process {first.pid} already" in second.stderr
        assert "Hint: one run at a time" in second.stderr
        for arguments in (("rebuild", "transactions"), ("restore", str(killed.backup))):
            other = copy.call(*arguments, "--yes")
            assert other.returncode == 1
            assert f"is being run by process {first.pid} already" in other.stderr
    finally:
        first.send_signal(signal.SIGTERM)
        assert first.wait(30) == 0, log.read_text()
    goes_on(copy, killed)


def test_a_store_of_another_format_is_refused_and_left_as_it_is(copy: Project, killed: Killed):
    path = copy.data_dir / STORE / "store.json"
    ours = path.read_text()
    path.write_text(ours.replace('"format_version": 1', '"format_version": 2'))
    before = content(copy.data_dir)
    for arguments in (("run", MODULE, "--until-end"), ("get", "card_activity:count_1h", "-e", "card_id=c")):
        refused(copy.call(*arguments), path, hint="use the featurestore version that wrote it")
    assert content(copy.data_dir) == before
    path.write_text(ours)
    goes_on(copy, killed)


def test_rows_of_another_definition_are_refused_and_left_as_they_are(copy: Project, killed: Killed):
    # As when a registry was lost, and definitions that had been changed since are applied to a new one.
    copy.run_until_end()
    module, registry, kept = copy.folder / MODULE, copy.data_dir / "registry", copy.data_dir / "kept"
    whole = module.read_text()
    registry.rename(kept)
    change_pipeline(copy, 'agg.mean("amount_eur", over=["1h", "24h"]),', 'agg.max("amount_eur", over=["1h", "24h"]),')
    before = content(copy.data_dir)
    for arguments in (("--apply", "--until-end"), ("--until-end",)):
        done = copy.call("run", MODULE, *arguments)
        refused(done, copy.data_dir / STORE / "views.json", hint="featurestore rebuild transactions --snapshots")
        assert "another definition of 'card_activity'" in done.stderr
    assert content(copy.data_dir) == before
    # With the registry that it was made with it goes on.
    made_anew = registry.rename(copy.data_dir / "made-anew")
    kept.rename(registry)
    changed = module.read_text()
    module.write_text(whole)
    goes_on(copy, killed)
    # By the changed definitions it is made again.
    registry.rename(kept)
    made_anew.rename(registry)
    module.write_text(changed)
    done = copy.call("rebuild", "transactions", "--snapshots", "--yes", "--grace", "0s")
    assert done.returncode == 0, done.stderr
    assert "equal: " in done.stdout
    done = copy.call("run", MODULE, "--until-end")
    assert done.returncode == 0, done.stderr
