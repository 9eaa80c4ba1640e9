"""A short run of the chaos, and that its comparison can fail."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from tests.faults.chaos import FAULTS, chaos
from tests.faults.support import shorter_or
from tests.integration.project import assert_same_stores, read_stores
from tests.kafka_broker import KafkaBroker


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.timeout(2_400)
def test_random_faults_under_load_leave_the_stores_of_an_undisturbed_run(
    kafka_broker: KafkaBroker, tmp_path: Path
) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with chaos(tmp_path, 20261123, port) as one:
        report = one.run(shorter_or(1_200, 25))
    assert set(report.faults) <= set(FAULTS)
    assert len(report.faults) >= 3
    assert report.answers > 100
    assert report.grown() == []
    stores = read_stores(one.project)
    folder = one.project.data_dir / "offline" / "features" / "card_activity" / "v1" / "tumbling_1m"
    max(folder.glob("*.parquet"), key=lambda path: path.stat().st_size).unlink()
    with pytest.raises(AssertionError):
        assert_same_stores(read_stores(one.project), stores)
