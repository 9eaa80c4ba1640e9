"""Payments for the serving benchmark: a day of history at once, then a steady stream of events of now.

`python -m benchmarks.serving.feed SERVERS EVENTS_PER_S SECONDS` sends the stream; `SECONDS` 0 the history instead.
"""

from __future__ import annotations

import sys
import time

import numpy as np
from confluent_kafka import Producer

from benchmarks.events import STREAMS

TOPIC = "payments"
CARDS, SKEW = STREAMS["payments"].cards, 1.2
PARTITIONS = 4
MERCHANTS = 1_000
HISTORY_EVENTS = 150_000
HISTORY_S = 24 * 3600
TICK_S = 0.01
"""The stream is sent in slices of this length, each event with its own time."""


def card_name(number: int) -> str:
    """Join key of a card."""
    return f"c{number:07d}"


def draw_cards(count: int, rng: np.random.Generator) -> list[int]:
    """Numbers of cards with the skew of the standard job: the busiest has a fifth of all events."""
    weights = np.cumsum(np.arange(1, CARDS + 1, dtype=np.float64) ** -SKEW)
    drawn: list[int] = np.searchsorted(weights, rng.random(count) * weights[-1], side="right").tolist()
    return drawn


def make_values(times_ms: np.ndarray, rng: np.random.Generator) -> list[bytes]:
    """A payment at each time; JSON."""
    cards = draw_cards(len(times_ms), rng)
    merchants = rng.integers(0, MERCHANTS, len(times_ms))
    cents = np.clip(rng.lognormal(8.0, 1.2, len(times_ms)), 1, 10_000_000).astype(np.int64)
    return [
        b'{"card_id":"%s","merchant_id":"m%03d","amount":%.2f,"ts":%d}'
        % (card_name(card).encode(), merchant, cent / 100, ts)
        for card, merchant, cent, ts in zip(cards, merchants.tolist(), cents.tolist(), times_ms.tolist(), strict=True)
    ]


def make_producer(servers: str) -> Producer:
    """A producer that sends at once and keeps the order of a partition."""
    return Producer(
        {
            "bootstrap.servers": servers,
            "enable.idempotence": True,
            "linger.ms": 1,
            "queue.buffering.max.messages": HISTORY_EVENTS + 1,
            "queue.buffering.max.kbytes": 1_000_000,
        }
    )


def send_history(servers: str) -> None:
    """A day of events up to now, in order of time, spread over the partitions."""
    now_ms = time.time_ns() // 1_000_000
    times_ms = np.linspace(now_ms - HISTORY_S * 1000, now_ms, HISTORY_EVENTS).astype(np.int64)
    producer = make_producer(servers)
    for number, value in enumerate(make_values(times_ms, np.random.default_rng(1))):
        producer.produce(TOPIC, value, partition=number % PARTITIONS)
        if number % 10_000 == 0:
            producer.poll(0)
    if left := producer.flush(60):
        raise SystemExit(f"{left} messages were not delivered")


def send_stream(servers: str, events_per_s: int, seconds: float) -> int:
    """Events of now at an even rate; how many were sent. Falls behind rather than skip when the machine is slow."""
    producer = make_producer(servers)
    rng = np.random.default_rng(2)
    began = time.monotonic()
    sent = 0
    while (gone := time.monotonic() - began) < seconds:
        due = int(gone * events_per_s) - sent
        if due:
            now_ms = time.time_ns() // 1_000_000
            for number, value in enumerate(make_values(np.full(due, now_ms), rng), sent):
                producer.produce(TOPIC, value, partition=number % PARTITIONS)
            sent += due
            producer.poll(0)
        time.sleep(TICK_S)
    producer.flush(10)
    return sent


def main(arguments: list[str]) -> int:
    """Send what is asked for; tells how many messages."""
    servers, events_per_s, seconds = arguments[0], int(arguments[1]), float(arguments[2])
    if not seconds:
        send_history(servers)
        print(HISTORY_EVENTS)
    else:
        print(send_stream(servers, events_per_s, seconds))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
