"""From producing an event to its value over HTTP: `python -m benchmarks.serving.freshness SERVERS URL SECONDS`.

An event of a card of its own is sent every 50 ms or so; all cards that have not been seen yet are asked for every 5 ms
over one connection. Prints the delays as JSON, in ms.
"""

from __future__ import annotations

import json
import sys
import time

import httpx
import numpy as np

from benchmarks.serving.feed import PARTITIONS, TOPIC, make_producer

EVERY_S = 0.05
ASK_EVERY_S = 0.005
WAIT_S = 10.0


def measure(servers: str, url: str, seconds: float) -> list[float]:
    """Delays in seconds of the events sent for so long; raises SystemExit when one never comes."""
    producer = make_producer(servers)
    rng = np.random.default_rng(3)
    run = f"{time.time_ns():x}"
    waiting: dict[str, float] = {}
    delays: list[float] = []
    sent, next_s = 0, time.monotonic()
    ends_s = next_s + seconds
    with httpx.Client(base_url=url, timeout=10) as http:
        while time.monotonic() < ends_s or waiting:
            now_s = time.monotonic()
            if now_s > ends_s + WAIT_S:
                raise SystemExit(f"{len(waiting)} of {sent} events were not seen within {WAIT_S:.0f} s")
            if next_s <= now_s < ends_s:
                card = f"probe-{run}-{sent}"
                value = {"card_id": card, "merchant_id": "m1", "amount": 1.0, "ts": time.time_ns() // 1_000_000}
                waiting[card] = time.monotonic()
                producer.produce(TOPIC, json.dumps(value).encode(), partition=sent % PARTITIONS)
                producer.poll(0)
                sent += 1
                # Not in step with the commits.
                next_s = now_s + EVERY_S * rng.uniform(0.5, 1.5)
            if waiting:
                cards = list(waiting)
                answer = http.post(
                    "/get-online-features",
                    json={"features": ["card_profile:count_24h"], "entities": {"card_id": cards}},
                )
                seen_s = time.monotonic()
                statuses = answer.raise_for_status().json()["results"][1]["statuses"]
                for card, status in zip(cards, statuses, strict=True):
                    if status == "PRESENT":
                        delays.append(seen_s - waiting.pop(card))
            time.sleep(ASK_EVERY_S)
    return delays


def main(arguments: list[str]) -> int:
    """Measure, print."""
    delays = measure(arguments[0], arguments[1], float(arguments[2]))
    p50, p99 = (float(np.percentile(delays, share)) * 1e3 for share in (50, 99))
    print(json.dumps({"events": len(delays), "p50_ms": p50, "p99_ms": p99, "max_ms": max(delays) * 1e3}))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
