"""Whether a version may be promoted, judged from how it compares with the one before."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import msgspec

from featurestore.cli.version_comparison import VersionComparison
from featurestore.cli.version_statistics import FeatureComparison
from featurestore.durations import US_PER_UNIT, format_duration

HISTORY = 0.99
"""A new version should have seen this part of the old one's events; a running worker's commits make up the rest."""

_NAMED = 3


class Thresholds(msgspec.Struct, frozen=True):
    """From where on a person should look. behind_us: of event time; psi: population stability index; the rises: of the
    part of rows that are null, that are of unknown entities.
    """

    behind_us: int
    psi: float
    null_rise: float
    not_found_rise: float


class Verdict(msgspec.Struct, frozen=True):
    """reasons: none for "promote"."""

    answer: Literal["promote", "look first", "not ready"]
    reasons: list[str]


def judge(found: VersionComparison, thresholds: Thresholds) -> Verdict:
    """ "not ready" when the versions can't be compared, "look first" when a reader would notice, "promote" else."""
    waiting = _not_ready(found, thresholds)
    if waiting:
        return Verdict("not ready", waiting)
    noticed = [*_history(found), *_of_features(found, thresholds)]
    return Verdict("look first", noticed) if noticed else Verdict("promote", [])


def _not_ready(found: VersionComparison, thresholds: Thresholds) -> list[str]:
    if found.is_batch:
        return _batch_not_ready(found, thresholds)
    for side in (found.old, found.new):
        if side.newest_event is None:
            return [f"version {side.version} has seen no event: start the worker anew, or wait for its backfill"]
    if found.behind_us > thresholds.behind_us:
        whole_s = found.behind_us // US_PER_UNIT["s"] * US_PER_UNIT["s"]
        return [
            f"version {found.new.version} is behind by {found.behind_events:,} messages, {format_duration(whole_s)} of "
            "event time: wait until it has caught up"
        ]
    if not found.sampled:
        return ["no version has a row: nothing can be compared"]
    return []


def _batch_not_ready(found: VersionComparison, thresholds: Thresholds) -> list[str]:
    for side in (found.old, found.new):
        if side.watermark is None:
            reference = f"{found.view}@{side.version}"
            return [f"no run has materialized {reference} to its end: featurestore materialize {reference}"]
    if found.behind_us > thresholds.behind_us:
        return [
            f"version {found.new.version} is materialized until {found.new.watermark}, version {found.old.version} "
            f"until {found.old.watermark}: featurestore materialize {found.view}"
        ]
    return [] if found.sampled else ["no version has a row: nothing can be compared"]


def _history(found: VersionComparison) -> list[str]:
    if found.new.events >= HISTORY * found.old.events:
        return []
    if found.is_batch:
        return [
            f"version {found.new.version} has {found.new.events:,} rows in the offline store, version "
            f"{found.old.version} {found.old.events:,}: it begins later, or its source has less"
        ]
    return [
        f"version {found.new.version} has seen {found.new.events:,} events, version {found.old.version} "
        f"{found.old.events:,}: its history is shorter; see featurestore backfill"
    ]


def _of_features(found: VersionComparison, thresholds: Thresholds) -> list[str]:
    reasons = []
    if found.removed_features:
        reasons.append(f"readers lose {_some(found.removed_features)}")
    # Whether a row is there is the same for all features of a version.
    lost = max((one.new.not_found_rate - one.old.not_found_rate for one in found.features), default=0.0)
    if lost > thresholds.not_found_rise:
        reasons.append(f"NOT_FOUND rises by {lost:.1%} of the rows (more than {thresholds.not_found_rise:.1%})")

    def those(text: str, noticed: Callable[[FeatureComparison], bool]) -> None:
        names = [one.feature for one in found.features if noticed(one)]
        if names:
            reasons.append(f"{text}: {_some(names)}")

    those("another type", lambda one: one.dtypes[0] != one.dtypes[1])
    those(
        f"nulls rise by more than {thresholds.null_rise:.1%} of the rows",
        lambda one: one.new.null_rate - one.old.null_rate > thresholds.null_rise,
    )
    those(f"PSI above {thresholds.psi:g}", lambda one: one.psi is not None and one.psi > thresholds.psi)
    return reasons


def _some(names: list[str]) -> str:
    more = len(names) - _NAMED
    return ", ".join(names[:_NAMED]) + (f" and {more} more" if more > 0 else "")
