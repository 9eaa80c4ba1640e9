"""Sensor readings, for `pipelines/sensors.py`: gateways that go offline, probes that break; the same for a seed.

Every machine reports at a steady pace. Some gateways are offline for an hour and then deliver their backlog, beside
what comes in meanwhile; some machines wear out towards the end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from featurestore.durations import parse_instant_us
from featurestore.examples.stream import Flags, Floats, Integers, MadeCounts
from featurestore.sources.avro_codec import avro_encoder

ERRORS = ("E-OVERHEAT", "E-IMBALANCE", "E-LUBRICATION")
BROKEN_AS = ("malformed", "event_time_out_of_range")

OUT_OF_ORDERNESS_S, LATENESS_S = 30.0, 7_200.0
"""As the pipeline has them."""

SEND_EVERY_S = 10.0
BACKLOG_PACE = 4.0
"""How much faster than readings come a gateway sends those that it kept."""

STOPPED_CLOCK_S = 5 * 3_600.0
"""How far back a gateway's clock is after a power cut, until it hears the time: beyond what is allowed."""

WARM_UP_S = 600.0
"""Without readings to be later than, none comes too late."""


@dataclass(frozen=True)
class Shape:
    """What the stream looks like. Shares as their names say, those of readings last; times in seconds.

    start: event time of the first reading, ISO 8601; the stream spans `duration_s` of event time.
    """

    events: int = 100_000
    machines: int = 140
    gateways: int = 14
    start: str = "2026-01-05T08:00:00Z"
    duration_s: float = 3 * 3600.0
    outage_s: float = 3_600.0
    offline_gateways_share: float = 0.3
    worn_machines_share: float = 0.05
    stopped_clock_share: float = 0.0005
    nan_share: float = 0.002
    broken_share: float = 0.0005


@dataclass(frozen=True)
class _Rows:
    """Columns of all readings. time_s, sent_s: measured and sent, since start; buffered: kept while offline."""

    machine: Integers
    sequence: Integers
    time_s: Floats
    sent_s: Floats
    buffered: Flags


class SensorStream:
    """Yields (key, value) of messages in the order in which they reach the topic; the key is the machine.

    schema: path of the Avro schema that values are written by. `made` is complete before the first message, but for
    the dead.
    """

    def __init__(self, schema: Path, shape: Shape | None = None, *, seed: int = 7) -> None:
        self.shape = shape or Shape()
        self.made = MadeCounts(dead=dict.fromkeys(BROKEN_AS, 0))
        self._encode = avro_encoder(schema)
        self._random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        shape, random = self.shape, self._random
        rows = self._rows()
        clock_s = np.where(self._stopped(rows), STOPPED_CLOCK_S, 0.0)
        broken = random.random(shape.events) < shape.broken_share
        # The clock stops at the stream's end: what comes after it is no later than that.
        delay_s = np.minimum(rows.sent_s, shape.duration_s) - rows.time_s + clock_s
        self.made.note_delays(delay_s[~broken], out_of_orderness_s=OUT_OF_ORDERNESS_S, lateness_s=LATENESS_S)
        self.made.well_formed = int((~broken).sum())
        running, celsius, vibration, error = self._physics(rows)
        metered = random.random(shape.machines) < 0.8
        power = (random.lognormal(2.0, 0.5, shape.machines)[rows.machine] * np.where(running, 1.0, 0.05)).round(2)
        speed = np.where(running, random.integers(1_440, 1_500, shape.events), 0)
        time_ms = parse_instant_us(shape.start) // 1_000 + ((rows.time_s - clock_s) * 1e3).astype(np.int64)
        for number, row in enumerate(np.argsort(rows.sent_s, kind="stable").tolist()):
            machine = int(rows.machine[row])
            reading: dict[str, object] = {
                "machine_id": f"machine_{machine:04d}",
                "gateway_id": f"gateway_{machine % shape.gateways:03d}",
                "sequence": int(rows.sequence[row]),
                "measured_at": int(time_ms[row]),
                "celsius": float(celsius[row]),
                "vibration": float(vibration[row]),
                "rpm": int(speed[row]),
                "kilowatts": float(power[row]) if metered[machine] else None,
                "error_code": ERRORS[machine % len(ERRORS)] if error[row] else None,
                "from_buffer": bool(rows.buffered[row]),
            }
            value = self._break(reading, number) if broken[row] else self._encode(reading)
            yield f"machine_{machine:04d}".encode(), value

    def _rows(self) -> _Rows:
        shape, random = self.shape, self._random
        number = np.arange(shape.events)
        machine, sequence = number % shape.machines, number // shape.machines
        period_s = shape.duration_s * shape.machines / shape.events
        offset_s = random.uniform(0.0, period_s, shape.machines)
        time_s = np.minimum(sequence * period_s + offset_s[machine], shape.duration_s)
        gateway = machine % shape.gateways
        offline = random.permutation(shape.gateways) < round(shape.offline_gateways_share * shape.gateways)
        # Of a stream of three hours: back, and through with the backlog, before it ends.
        from_s = np.where(offline, random.uniform(0.2, 0.4, shape.gateways) * shape.duration_s, np.inf)
        away_s = time_s - from_s[gateway]
        buffered = (away_s >= 0) & (away_s < shape.outage_s)
        backlog_s = np.where(buffered, away_s / BACKLOG_PACE, 0.0)
        ready_s = np.where(buffered, from_s[gateway] + shape.outage_s, time_s)
        turn_s = random.uniform(0.0, SEND_EVERY_S, shape.gateways)[gateway]
        sent_s = np.ceil((ready_s + backlog_s - turn_s) / SEND_EVERY_S) * SEND_EVERY_S + turn_s
        # Within a sending, readings come in any order; the network adds a little.
        sent_s += random.uniform(0.1, 3.0, shape.events)
        return _Rows(machine, sequence, time_s, sent_s, buffered)

    def _stopped(self, rows: _Rows) -> Flags:
        chance = self._random.random(self.shape.events)
        return (chance < self.shape.stopped_clock_share) & (rows.time_s > WARM_UP_S)

    def _physics(self, rows: _Rows) -> tuple[Flags, Floats, Floats, Flags]:
        """Running, temperature, vibration, and whether the controller complains."""
        shape, random = self.shape, self._random
        phase = random.uniform(0.0, 2 * np.pi, shape.machines)[rows.machine]
        # Shifts of an hour and a half with a break.
        running = np.sin(phase + rows.time_s * 2 * np.pi / 5_400.0) > -0.8
        worn = random.permutation(shape.machines) < round(shape.worn_machines_share * shape.machines)
        wear = np.where(worn[rows.machine], (rows.time_s / shape.duration_s) ** 3, 0.0)
        level = random.lognormal(0.8, 0.3, shape.machines)[rows.machine]
        vibration = np.where(running, level * (1 + 4 * wear) * random.lognormal(0.0, 0.1, shape.events), 0.05)
        warmth = random.normal(58.0, 4.0, shape.machines)[rows.machine] + 25 * wear
        celsius = np.where(running, warmth, warmth - 15.0) + random.normal(0.0, 0.8, shape.events)
        celsius[random.random(shape.events) < shape.nan_share] = np.nan
        error = random.random(shape.events) < 0.0005 + 0.15 * wear
        return running, celsius.round(1), vibration.round(3), error

    def _break(self, reading: dict[str, object], number: int) -> bytes:
        reason = BROKEN_AS[number % len(BROKEN_AS)]
        self.made.dead[reason] += 1
        if reason == "malformed":
            return self._encode(reading)[:-5]
        # Microseconds where milliseconds are expected: far beyond the year 9999.
        measured_ms = reading["measured_at"]
        assert isinstance(measured_ms, int)
        return self._encode({**reading, "measured_at": measured_ms * 1_000})
