"""Shard keys are held against bytewax itself: two real processes must get every second shard each."""

from __future__ import annotations

import json
import socket
import subprocess
import sys

import pytest

from featurestore.worker.spread import shard_key

PROGRAM = """
import json, sys
from bytewax._bytewax import cluster_main
from bytewax.dataflow import Dataflow
import bytewax.operators as op
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.operators import StatefulBatchLogic
from bytewax.testing import TestingSink

keys, process, addresses = json.loads(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
seen = set()

class Once(StatelessSourcePartition):
    sent = False
    def next_batch(self):
        if self.sent:
            raise StopIteration
        self.sent = True
        return [(key, shard) for shard, key in enumerate(keys)]

class Keys(DynamicSource):
    def build(self, step_id, index, count):
        return Once()

class Note(StatefulBatchLogic):
    def on_batch(self, values):
        seen.update(values)
        return [], False
    def snapshot(self):
        return None

flow = Dataflow("spread")
stream = op.stateful_batch("note", op.input("keys", flow, Keys()), lambda resume: Note())
op.output("end", stream, TestingSink([]))
cluster_main(flow, addresses, process)
print(json.dumps(sorted(seen)))
"""


@pytest.mark.parametrize("shards", [8, 16])
def test_bytewax_sends_every_second_shard_to_each_of_two_processes(shards: int):
    sockets = [socket.socket() for _ in range(2)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    keys = json.dumps([shard_key(shard, 2) for shard in range(shards)])
    children = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, keys, str(process), *addresses], stdout=subprocess.PIPE, text=True
        )
        for process in range(2)
    ]
    # bytewax tells on stdout, too, when a process was faster than the one it connects to.
    got = [json.loads(child.communicate(timeout=60)[0].splitlines()[-1]) for child in children]
    assert got == [list(range(0, shards, 2)), list(range(1, shards, 2))]


@pytest.mark.parametrize("processes", [1, 3, 4, 5, 8])
def test_shards_fall_evenly_on_any_number_of_processes(processes: int):
    assert len({shard_key(shard, processes) for shard in range(16)}) == 16
