"""Many short histories of which everything is drawn: what is left is what the oracle says."""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.simulation.histories import drawn_history

BLOCKS = 10
BLOCK = 2 * int(os.environ.get("FEATURESTORE_TEST_HISTORIES", "200")) // BLOCKS


@pytest.mark.parametrize("block", range(BLOCKS))
def test_whatever_the_log_is_however_it_is_read_and_wherever_it_dies(block, tmp_path):
    died: Counter[str] = Counter()
    for seed in range(block * BLOCK, (block + 1) * BLOCK):
        try:
            died.update(drawn_history(seed, tmp_path / str(seed)).crashes)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}") from error
    assert died.total() > BLOCK // 2, "histories with crashes"
    assert len(died) > BLOCK // 5, f"crashes at many kinds of writes: {died}"
