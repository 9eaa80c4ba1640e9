"""The generator of sensor readings: deterministic, its counts are what is in the stream, gateways that come back."""

from __future__ import annotations

import io
import json
import math
from collections import defaultdict
from pathlib import Path

import fastavro
import pytest

from featurestore.examples.sensors import LATENESS_S, OUT_OF_ORDERNESS_S, SensorStream, Shape
from pipelines.sensors import readings as source

SCHEMA = Path("schemas/sensor_reading.avsc")
SHAPE = Shape(events=30_000, broken_share=0.01, stopped_clock_share=0.005, nan_share=0.01)
YEAR_9999_MS = 253_402_300_800_000


def plain_schema() -> object:
    """Times as the numbers that they are."""
    schema = json.loads(SCHEMA.read_text())
    for column in schema["fields"]:
        if isinstance(column["type"], dict):
            column["type"] = column["type"]["type"]
    return fastavro.parse_schema(schema)


def read(values: list[bytes]) -> list[dict[str, object] | None]:
    """Each value's reading, None for one that is cut off."""
    schema, out = plain_schema(), []
    for value in values:
        try:
            out.append(fastavro.schemaless_reader(io.BytesIO(value), schema, None))
        except EOFError:
            out.append(None)
    return out


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others() -> None:
    assert list(SensorStream(SCHEMA, SHAPE, seed=3)) == list(SensorStream(SCHEMA, SHAPE, seed=3))
    assert list(SensorStream(SCHEMA, SHAPE, seed=3)) != list(SensorStream(SCHEMA, SHAPE, seed=4))


def test_counts_are_what_is_in_the_stream() -> None:
    stream = SensorStream(SCHEMA, SHAPE, seed=3)
    rows = read([value for _, value in stream])
    beyond = sum(row is not None and row["measured_at"] > YEAR_9999_MS for row in rows)
    good = [row for row in rows if row is not None and row["measured_at"] <= YEAR_9999_MS]
    assert stream.made.dead == {"malformed": rows.count(None), "event_time_out_of_range": beyond}
    assert min(stream.made.dead.values()) > 0
    assert (stream.made.well_formed, stream.made.total) == (len(good), SHAPE.events)
    late = too_late = newest_ms = 0
    for row in good:
        behind_s = (newest_ms - row["measured_at"]) / 1e3 - OUT_OF_ORDERNESS_S
        late += behind_s > 0
        too_late += behind_s > LATENESS_S
        newest_ms = max(newest_ms, row["measured_at"])
    # Made late is measured against the clock of the stream, found here against its newest event.
    assert stream.made.late + stream.made.too_late == pytest.approx(late, rel=0.05)
    assert stream.made.too_late == too_late > 0


def test_the_source_allows_what_the_generator_takes_it_to() -> None:
    assert (source.max_out_of_orderness, source.allowed_lateness) == ("30s", "2h")
    assert (OUT_OF_ORDERNESS_S, LATENESS_S) == (30.0, 7_200.0)


def test_a_gateway_that_was_offline_delivers_all_that_it_kept_beside_what_comes_in() -> None:
    shape = Shape(events=30_000, broken_share=0, stopped_clock_share=0)
    rows = read([value for _, value in SensorStream(SCHEMA, shape, seed=3)])
    places = defaultdict(list)
    for place, row in enumerate(rows):
        assert row is not None
        places[row["gateway_id"]].append((place, row))
    returned = {name: seen for name, seen in places.items() if any(row["from_buffer"] for _, row in seen)}
    assert len(places) == shape.gateways
    assert len(returned) == round(shape.offline_gateways_share * shape.gateways)
    for seen in returned.values():
        kept = [(place, row) for place, row in seen if row["from_buffer"]]
        times = [row["measured_at"] for _, row in kept]
        assert max(times) - min(times) == pytest.approx(shape.outage_s * 1e3, rel=0.03)
        live = [place for place, row in seen if not row["from_buffer"] and kept[0][0] < place < kept[-1][0]]
        assert len(live) > 10
    # Nothing is missing: a machine's readings are numbered.
    numbers = defaultdict(set)
    for row in rows:
        assert row is not None
        numbers[row["machine_id"]].add(row["sequence"])
    assert all(seen == set(range(len(seen))) for seen in numbers.values())


def test_probes_break_and_worn_machines_complain() -> None:
    rows = [row for row in read([value for _, value in SensorStream(SCHEMA, SHAPE, seed=3)]) if row is not None]
    assert any(math.isnan(row["celsius"]) for row in rows)
    complaints = defaultdict(int)
    for row in rows:
        complaints[row["machine_id"]] += row["error_code"] is not None
    most = sorted(complaints.values(), reverse=True)
    assert most[0] > 10 * max(1, most[len(most) // 2])
