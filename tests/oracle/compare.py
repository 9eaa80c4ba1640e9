"""When two results are the same: integers, text and nulls exactly, floats within 1e-9 of their scale."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

REL = 1e-9
ABS = 1e-300
SCALE = "_scale"


def same(expected: Any, actual: Any, scale: float = 0.0) -> bool:
    """Whether `actual` is the expected value and of its type; floats may differ by 1e-9 × scale."""
    if type(expected) is not type(actual):
        return False
    if not isinstance(expected, float):
        return bool(expected == actual)
    if not (math.isfinite(expected) and math.isfinite(actual)):
        return expected == actual or (math.isnan(expected) and math.isnan(actual))
    return abs(expected - actual) <= REL * scale + ABS


def assert_same_rows(
    expected: Mapping[Any, Mapping[str, Any]], actual: Mapping[Any, Mapping[str, Any]], *, shown: int = 10
) -> None:
    """The same keys, and for each the same features. `expected`: one dataset of `snapshots`, scales included.

    Columns of `actual` that the oracle does not know (revision, created_timestamp, ...) are not looked at.
    """
    complaints = [f"missing row {key}: {dict(expected[key])}" for key in expected if key not in actual]
    complaints += [f"unexpected row {key}: {dict(actual[key])}" for key in actual if key not in expected]
    for key in expected:
        if key not in actual:
            continue
        scales = expected[key].get(SCALE, {})
        for name, value in expected[key].items():
            if name == SCALE:
                continue
            if name not in actual[key]:
                complaints.append(f"{key}: no column {name!r}")
            elif not same(value, actual[key][name], scales.get(name, 0.0)):
                complaints.append(f"{key} {name}: expected {value!r}, got {actual[key][name]!r}")
    if complaints:
        more = f"\n... and {len(complaints) - shown} more" if len(complaints) > shown else ""
        raise AssertionError(f"{len(complaints)} differences\n" + "\n".join(complaints[:shown]) + more)
