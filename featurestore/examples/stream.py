"""What the generators have in common: how a stream is asked for its messages, and what it says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]


@dataclass
class MadeCounts:
    """What a generator has made so far.

    well_formed: all that can be decoded, and among them out_of_order: delayed, but by no more than
    the source's max_out_of_orderness; late: by more, within the allowed lateness; too_late: beyond it, if
    their partition had newer events before. dead: by the reason of the dead letter that a broken one becomes.
    """

    well_formed: int = 0
    out_of_order: int = 0
    late: int = 0
    too_late: int = 0
    dead: dict[str, int] = field(default_factory=dict)

    @property
    def total(self) -> int:
        """All messages."""
        return self.well_formed + sum(self.dead.values())

    def note_delays(self, delay_s: Floats, *, out_of_orderness_s: float, lateness_s: float) -> None:
        """Count delayed events by what becomes of them. delay_s: behind the stream's clock, shape (n,), seconds."""
        behind_s = delay_s - out_of_orderness_s
        self.out_of_order += int(((delay_s > 0) & (behind_s <= 0)).sum())
        self.late += int(((behind_s > 0) & (behind_s <= lateness_s)).sum())
        self.too_late += int((behind_s > lateness_s).sum())


class EventStream(Protocol):
    """Messages of an example's topic: the same for a seed, in the order in which they reach the topic."""

    made: MadeCounts

    def __iter__(self) -> Iterator[tuple[bytes, bytes]]:
        """Key and value of each message; `made` counts along, or is complete before the first."""
        ...


def popularity(count: int, exponent: float = 0.8) -> Floats:
    """Shares after Zipf: a few are busy, most are not."""
    weights = 1 / np.arange(1, count + 1) ** exponent
    shares: Floats = weights / weights.sum()
    return shares
