"""Card payments, for `pipelines/transactions.py`: out of order, a few late, a few broken; the same for a seed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from featurestore.durations import parse_instant_us
from featurestore.examples.stream import MadeCounts, popularity

CHUNK_ROWS = 10_000
CURRENCIES = ("EUR", "USD", "GBP", "CHF", "SEK")
FX_RATES = (1.0, 0.9173, 1.1592, 1.0641, 0.0879)
COUNTRIES = ("DE", "FR", "NL", "US", "GB", "CH", "SE")
BROKEN_AS = ("malformed", "wrong_type", "missing_field", "null_field")
BURST_EVENTS, BURST_SPREAD = 20, 60


@dataclass(frozen=True)
class Shape:
    """What the stream looks like. Shares are of all messages; times in seconds.

    start: event time of the first message, ISO 8601; the stream spans `duration_s` of event time.
    """

    events: int = 100_000
    cards: int = 5_000
    merchants: int = 800
    start: str = "2026-11-20T08:00:00Z"
    duration_s: float = 3 * 3600.0
    out_of_order_share: float = 0.3
    late_share: float = 0.005
    too_late_share: float = 0.0005
    broken_share: float = 0.0005


class TransactionStream:
    """Yields (key, value) of messages in the order in which they reach the topic; `made` counts along."""

    def __init__(self, shape: Shape | None = None, *, seed: int = 7) -> None:
        self.shape = shape or Shape()
        self.made = MadeCounts(dead=dict.fromkeys(BROKEN_AS, 0))
        self._random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        shape, random = self.shape, self._random
        cards, merchants = popularity(shape.cards), popularity(shape.merchants)
        card_level = random.lognormal(3.2, 0.6, shape.cards)  # what a card usually spends, EUR
        card_home = random.integers(0, len(COUNTRIES), shape.cards)
        for first in range(0, shape.events, CHUNK_ROWS):
            rows = np.arange(first, min(first + CHUNK_ROWS, shape.events))
            card = random.choice(shape.cards, len(rows), p=cards)
            level = card_level[card] * random.lognormal(0.0, 0.5, len(rows))
            _add_bursts(random, card, level)
            merchant = random.choice(shape.merchants, len(rows), p=merchants)
            currency = random.choice(len(CURRENCIES), len(rows), p=(0.7, 0.12, 0.08, 0.06, 0.04))
            amount = np.round(level / np.asarray(FX_RATES)[currency], 2)
            declined = random.random(len(rows)) < 0.04
            online = random.random(len(rows)) < 0.25
            broken = random.random(len(rows)) < shape.broken_share
            time_ms = self._event_times_ms(rows, broken)
            for i, row in enumerate(rows.tolist()):
                event: dict[str, object] = {
                    "transaction_id": f"t{row:09d}",
                    "card_id": f"card_{card[i]:06d}",
                    "merchant_id": f"merchant_{merchant[i]:04d}",
                    "amount": float(amount[i]),
                    "currency": CURRENCIES[currency[i]],
                    "status": "declined" if declined[i] else "approved",
                    "country": None if online[i] else COUNTRIES[card_home[card[i]]],
                    "ts": int(time_ms[i]),
                }
                if currency[i]:
                    event["fx_rate"] = FX_RATES[currency[i]]
                key = f"card_{card[i]:06d}".encode()
                if broken[i]:
                    yield key, self._break(event, row)
                else:
                    self.made.well_formed += 1
                    yield key, msgspec.json.encode(event)

    def _event_times_ms(self, rows: NDArray[np.int64], broken: NDArray[np.bool_]) -> NDArray[np.int64]:
        shape, random = self.shape, self._random
        start_us = parse_instant_us(shape.start)
        step_us = shape.duration_s * 1e6 / shape.events
        clock_us = start_us + (rows + random.random(len(rows))) * step_us
        # A broken event is neither in time nor late.
        chance = np.where(broken, np.nan, random.random(len(rows)))
        delay_s = np.zeros(len(rows))
        out_of_order = chance < shape.out_of_order_share
        late = chance > 1 - shape.late_share
        # The first half hour has no events that far back to be later than.
        too_late = (chance > 1 - shape.too_late_share) & (clock_us > start_us + 1.8e9)
        late &= ~too_late
        delay_s[out_of_order] = random.uniform(0.01, 4.9, int(out_of_order.sum()))
        delay_s[late] = random.uniform(6, 60, int(late.sum()))
        delay_s[too_late] = random.uniform(15 * 60, 25 * 60, int(too_late.sum()))
        self.made.out_of_order += int(out_of_order.sum())
        self.made.late += int(late.sum())
        self.made.too_late += int(too_late.sum())
        times: NDArray[np.int64] = ((clock_us - delay_s * 1e6) // 1000).astype(np.int64)
        return times

    def _break(self, event: dict[str, object], row: int) -> bytes:
        reason = BROKEN_AS[row % len(BROKEN_AS)]
        self.made.dead[reason] += 1
        if reason == "malformed":
            return msgspec.json.encode(event)[:-9]
        if reason == "wrong_type":
            event["amount"] = "12,50"
        elif reason == "missing_field":
            del event["merchant_id"]
        else:
            event["ts"] = None
        return msgspec.json.encode(event)


def _add_bursts(random: np.random.Generator, card: NDArray[np.int64], level: NDArray[np.float64]) -> None:
    """Stolen cards: many large purchases within some hundred messages, one burst in 5,000 messages."""
    for _ in range(len(card) // 5_000):
        first = int(random.integers(0, len(card) - BURST_EVENTS * BURST_SPREAD))
        where = first + np.sort(random.choice(BURST_EVENTS * BURST_SPREAD, BURST_EVENTS, replace=False))
        card[where] = card[where[0]]
        level[where] *= 8
