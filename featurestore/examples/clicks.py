"""Views and clicks of a shop, for `pipelines/clicks.py`: visits, hot items, late phones; the same for a seed.

A visit is a run of views by one visitor, some followed by a click on what was shown. A click reaches the topic when its
page is left, so it is late by its own dwell time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import msgspec
import numpy as np

from featurestore.durations import parse_instant_us
from featurestore.examples.stream import Flags, Floats, Integers, MadeCounts, popularity

CATEGORIES = ("shoes", "jackets", "kitchen", "garden", "books", "games", "phones", "bikes")
CHANNELS = ("search", "direct", "social", "mail")
BROKEN_AS = ("malformed", "wrong_type", "missing_field", "null_field")

OUT_OF_ORDERNESS_S, LATENESS_S = 120.0, 1_800.0
"""As the pipeline has them."""

EVENTS_A_VISIT, VIEW_EVERY_S = 14, 9.0
CLICK_SHARE, FAVOURITE_SHARE = 0.12, 0.4
HOT_ITEMS, HOT_SHARE, HOT_FOR_S = 5, 0.35, 1_800.0
DWELL_MEDIAN_S, DWELL_SPREAD, DWELL_MAX_S = 25.0, 1.1, 1_800.0


@dataclass(frozen=True)
class Shape:
    """What the stream looks like. Shares are of visits, `broken_share` of messages; times in seconds.

    offline_share: on a phone that sends minutes later. lost_share: that sends more than the allowed lateness later.
    start: event time of the first message, ISO 8601; the stream spans `duration_s` of event time.
    """

    events: int = 100_000
    users: int = 5_000
    items: int = 1_000
    start: str = "2026-01-05T08:00:00Z"
    duration_s: float = 3 * 3600.0
    anonymous_share: float = 0.1
    bot_share: float = 0.02
    offline_share: float = 0.01
    lost_share: float = 0.001
    broken_share: float = 0.0005


@dataclass(frozen=True)
class _Rows:
    """Columns of all messages. visit: its number; position: of a message in its visit, from 0; time_s: since start."""

    visit: Integers
    position: Integers
    user: Integers
    item: Integers
    click: Flags
    dwell_s: Floats
    time_s: Floats


class ClickStream:
    """Yields (key, value) of messages in the order in which they reach the topic.

    A logged-in visitor's key is the user id. `made` is complete before the first message.
    """

    def __init__(self, shape: Shape | None = None, *, seed: int = 7) -> None:
        self.shape = shape or Shape()
        self.made = MadeCounts(dead=dict.fromkeys(BROKEN_AS, 0))
        self._random = np.random.default_rng(seed)

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        shape, random = self.shape, self._random
        rows = self._rows()
        visits = int(rows.visit[-1]) + 1
        delay_s = self._delays(rows, visits)
        broken = random.random(shape.events) < shape.broken_share
        self.made.note_delays(delay_s[~broken], out_of_orderness_s=OUT_OF_ORDERNESS_S, lateness_s=LATENESS_S)
        self.made.well_formed = int((~broken).sum())
        anonymous = random.random(visits) < shape.anonymous_share
        bot = random.random(visits) < shape.bot_share
        channel = random.choice(len(CHANNELS), visits, p=(0.45, 0.3, 0.15, 0.1))
        order = np.argsort(rows.time_s + delay_s, kind="stable")
        time_us = parse_instant_us(shape.start) + (rows.time_s * 1e6).astype(np.int64)
        text = np.datetime_as_string(time_us.astype("datetime64[us]"), unit="ms")
        for number, row in enumerate(order.tolist()):
            visit, item = rows.visit[row], rows.item[row]
            event: dict[str, object] = {
                "event_id": f"e{row:09d}",
                "user_id": None if anonymous[visit] else f"user_{rows.user[row]:06d}",
                "item_id": f"item_{item:05d}",
                "category": CATEGORIES[item % len(CATEGORIES)],
                "action": "click" if rows.click[row] else "view",
                "channel": CHANNELS[channel[visit]],
                "at": f"{text[row]}Z",
            }
            if rows.click[row]:
                event["dwell_s"] = float(rows.dwell_s[row])
            if bot[visit]:
                event["bot"] = True
            key = f"visit_{visit:06d}" if anonymous[visit] else f"user_{rows.user[row]:06d}"
            yield key.encode(), self._break(event, number) if broken[row] else msgspec.json.encode(event)

    def _rows(self) -> _Rows:
        shape, random = self.shape, self._random
        lengths = random.geometric(1 / EVENTS_A_VISIT, shape.events)
        visit = np.repeat(np.arange(shape.events), lengths)[: shape.events]
        first = np.flatnonzero(np.append(True, visit[1:] != visit[:-1]))
        position = np.arange(shape.events) - first[visit]
        time_s = self._times(visit, first)
        user = random.choice(shape.users, len(first), p=popularity(shape.users))[visit]
        item = self._items(user, time_s)
        click = self._clicks(position, item)
        # Opened is what was shown just before.
        item = np.where(click, np.roll(item, 1), item)
        stay_s = random.lognormal(np.log(DWELL_MEDIAN_S), DWELL_SPREAD, shape.events)
        dwell_s: Floats = np.minimum(stay_s, DWELL_MAX_S).round(1)
        return _Rows(visit, position, user, item, click, dwell_s, time_s)

    def _times(self, visit: Integers, first: Integers) -> Floats:
        shape, random = self.shape, self._random
        gaps = random.exponential(VIEW_EVERY_S, shape.events)
        gaps[first] = 0.0
        passed = np.cumsum(gaps)
        within = passed - passed[first][visit]
        last = np.append(first[1:], shape.events) - 1
        start = random.uniform(0.0, np.maximum(shape.duration_s - within[last], 1e-3))
        times: Floats = np.minimum(start[visit] + within, shape.duration_s)
        return times

    def _items(self, user: Integers, time_s: Floats) -> Integers:
        """What is shown: by popularity, often of the user's favourite category, and a few items are hot for a while."""
        shape, random = self.shape, self._random
        item = random.choice(shape.items, shape.events, p=popularity(shape.items))
        favourite = random.random(shape.events) < FAVOURITE_SHARE
        count = len(CATEGORIES)
        item = np.where(favourite, np.minimum(item // count * count + user % count, shape.items - 1), item)
        periods = int(shape.duration_s // HOT_FOR_S) + 1
        hot_items = random.integers(0, shape.items, (periods, HOT_ITEMS))
        hot = random.random(shape.events) < HOT_SHARE
        pick = random.choice(HOT_ITEMS, shape.events, p=popularity(HOT_ITEMS))
        chosen: Integers = np.where(hot, hot_items[(time_s // HOT_FOR_S).astype(np.int64), pick], item)
        return chosen

    def _clicks(self, position: Integers, item: Integers) -> Flags:
        """Which messages are clicks: by what the item before them in the visit is worth."""
        shape, random = self.shape, self._random
        appeal = random.beta(2.0, 2.0 / CLICK_SHARE - 2.0, shape.items)
        wanted = (random.random(shape.events) < appeal[np.roll(item, 1)]) & (position > 0)
        # Not twice in a row: the message before must be a view.
        return wanted & ~np.roll(wanted, 1)

    def _delays(self, rows: _Rows, visits: int) -> Floats:
        """How far behind the stream's clock each message comes, seconds."""
        shape, random = self.shape, self._random
        delay_s = random.uniform(0.05, 3.0, shape.events) + np.where(rows.click, rows.dwell_s, 0.0)
        chance = random.random(visits)
        away_s = np.zeros(visits)
        offline, lost = chance < shape.offline_share, chance > 1 - shape.lost_share
        away_s[offline] = random.uniform(180.0, 1_500.0, int(offline.sum()))
        away_s[lost] = random.uniform(2_700.0, 5_400.0, int(lost.sum()))
        delay_s += away_s[rows.visit]
        # The clock stops at the stream's end: what comes after it is no later than that.
        left_s: Floats = np.minimum(delay_s, shape.duration_s - rows.time_s)
        return left_s

    def _break(self, event: dict[str, object], number: int) -> bytes:
        reason = BROKEN_AS[number % len(BROKEN_AS)]
        self.made.dead[reason] += 1
        if reason == "malformed":
            return msgspec.json.encode(event)[:-9]
        if reason == "wrong_type":
            event["at"] = str(event["at"]).removesuffix("Z")  # a time without a zone
        elif reason == "missing_field":
            del event["item_id"]
        else:
            event["action"] = None
        return msgspec.json.encode(event)
