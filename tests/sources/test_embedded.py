"""The embedded broker: one a data_dir, found through its address file, by other processes too."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from featurestore.errors import BrokerUnavailableError, StoreLockedError
from featurestore.sources.embedded import EmbeddedBroker, embedded_address, resolve_bootstrap
from featurestore.sources.topics import wait_for_topic
from tests.sources.support import make_reader, read_to_end, rows, source

ROOT = Path(__file__).resolve().parents[2]
SENDING = """
import sys
from pathlib import Path
from featurestore.sources.embedded import embedded_address
from featurestore.sources.produce import produce
sent = produce(embedded_address(Path(sys.argv[1])).bootstrap_servers, "payments",
    [(b"c%d" % (n % 5), b'{"card_id": "c%d", "amount": %d, "ts": %d}' % (n % 5, n, 1700000000000 + n))
     for n in range(1000)], {})
assert sent.messages == 1000
"""


def test_what_one_process_sends_another_reads(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker:
        assert broker.address is not None
        subprocess.run([sys.executable, "-c", SENDING, str(tmp_path)], check=True, cwd=ROOT, timeout=60)
        info = wait_for_topic("embedded", "payments", {}, tmp_path, stop=lambda: True)
        assert info.generation == broker.address.generation
        reader = make_reader(
            source(),
            broker.address.bootstrap_servers,
            tmp_path / "v",
            stop_at={p: e for p, (_, e) in info.partitions.items()},
        )
        accepted = read_to_end(reader).frame("accepted")
    assert sorted(rows(accepted, "amount")) == [float(n) for n in range(1000)]
    by_card = accepted.group_by("card_id").agg("_partition", "amount")
    for _, partitions, amounts in by_card.rows():
        assert len(set(partitions)) == 1, "a key has one partition"
        assert amounts == sorted(amounts), "and keeps its order"


def test_the_address_file_says_where_it_is_and_goes_with_it(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path / "data") as broker:
        told = json.loads((tmp_path / "data" / "broker.json").read_text())
        assert told["pid"] == os.getpid()
        assert embedded_address(tmp_path / "data") == broker.address
        assert resolve_bootstrap("embedded", tmp_path / "data", stop=lambda: True) == told["bootstrap_servers"]
    assert list((tmp_path / "data").iterdir()) == []
    assert resolve_bootstrap("somewhere:9092", tmp_path, stop=lambda: True) == "somewhere:9092"


def test_a_second_one_is_refused_with_the_holders_pid(tmp_path: Path) -> None:
    with EmbeddedBroker(tmp_path) as broker:
        with pytest.raises(StoreLockedError, match=str(os.getpid())):
            EmbeddedBroker(tmp_path).__enter__()
        assert embedded_address(tmp_path) == broker.address


def test_the_file_of_a_dead_process_holds_nobody_up(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = {"bootstrap_servers": "127.0.0.1:1", "generation": "old", "pid": dead.pid}
    (tmp_path / "broker.json").write_text(json.dumps(left))
    with pytest.raises(BrokerUnavailableError, match="featurestore broker"):
        embedded_address(tmp_path)
    with EmbeddedBroker(tmp_path) as broker:
        assert embedded_address(tmp_path) == broker.address


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": 1}'])
def test_a_broken_address_file_counts_as_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "broker.json").write_text(text)
    with pytest.raises(BrokerUnavailableError):
        embedded_address(tmp_path)
