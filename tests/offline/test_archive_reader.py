"""The archive may be compacted while it is read back: the same events, in the order of their offsets."""

from __future__ import annotations

from pathlib import Path
from random import Random

import polars as pl

from featurestore.batches import NO_TIME
from featurestore.offline.archive import ArchiveEnd, read_ends
from featurestore.offline.archive_reader import PartitionReader, archived_generations, largest_event_time_before
from tests.offline.logs import GENERATION, draw_log, write_whole
from tests.offline.test_compaction import SOURCE, compact_all


def test_a_partition_is_read_back_whole_when_it_is_compacted_on_the_way(tmp_path: Path):
    log = draw_log(Random(21), 0, 90)
    write_whole(tmp_path, [log])
    generations = archived_generations(tmp_path, SOURCE)
    end = read_ends(tmp_path, SOURCE, GENERATION)[0]
    reader = PartitionReader(tmp_path, SOURCE, GENERATION, 0, ArchiveEnd(log.first, NO_TIME), end)
    parts = []
    while (part := reader.next_part()) is not None:
        assert part.before_us == log.max_before(part.first_offset)
        if part.rows.height:
            parts.append(part.rows)
        if len(parts) == 2:
            compact_all(tmp_path)
    accepted = [message.offset for message in log.messages if message.verdict == "accepted"]
    assert pl.concat(parts)["_offset"].to_list() == accepted
    assert archived_generations(tmp_path, SOURCE) == generations


def test_the_largest_event_time_before_any_offset_is_known(tmp_path: Path):
    log = draw_log(Random(22), 0, 90)
    write_whole(tmp_path, [log])
    for _ in range(2):
        for offset in range(log.first, log.end + 3):
            known = largest_event_time_before(tmp_path, SOURCE, GENERATION, 0, offset)
            assert known == log.max_before(offset), offset
        compact_all(tmp_path)
    assert largest_event_time_before(tmp_path, SOURCE, "another", 0, log.end) == NO_TIME
