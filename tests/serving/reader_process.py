"""Reads again and again in a process of its own, and keeps account of what is wrong.

`python -m tests.serving.reader_process URL CARD…` reads until its stdin ends, then prints a `Seen` as JSON. Every event
of a card has the amount 1.0, so that a right answer's sum is its count; and over one connection, which is one server
process, no count ever goes back.
"""

from __future__ import annotations

import sys
import threading
import time

import httpx
import msgspec

FEATURES = ["card_activity:count_10m", "card_activity:amount_sum_10m", "card_activity:amount_max_10m"]


class Seen(msgspec.Struct):
    """answers: read without error. longest_failure_s: from the first failed read to the next answer."""

    answers: int = 0
    failures: int = 0
    longest_failure_s: float = 0.0
    wrong: list[str] = []
    counts: dict[str, int] = {}


def look(seen: Seen, cards: list[str], columns: list[list[float | None]]) -> None:
    """Take one answer into account."""
    for card, count, total, largest in zip(cards, *columns):
        before = seen.counts.get(card, 0)
        count = int(count or 0)
        if count != (total or 0) or (count and largest != 1.0) or count < before:
            seen.wrong.append(f"{card}: count {count} (before {before}), sum {total}, max {largest}")
        seen.counts[card] = count


def main() -> None:
    url, cards = sys.argv[1], sys.argv[2:]
    ended = threading.Event()
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    seen = Seen()
    failing_since = None
    with httpx.Client(timeout=5) as http:
        # Back to back, reads would take the cores from the worker and its compactions.
        while not ended.wait(0.005):
            try:
                answer = http.post(
                    f"{url}/get-online-features", json={"features": FEATURES, "entities": {"card_id": cards}}
                )
                failed = answer.status_code != 200
            except httpx.TransportError:
                failed = True
            now = time.monotonic()
            if failed:
                seen.failures += 1
                failing_since = failing_since or now
                seen.longest_failure_s = max(seen.longest_failure_s, now - failing_since)
                continue
            failing_since = None
            seen.answers += 1
            look(seen, cards, [column["values"] for column in answer.json()["results"][1:]])
    sys.stdout.write(msgspec.json.encode(seen).decode())


if __name__ == "__main__":
    main()
