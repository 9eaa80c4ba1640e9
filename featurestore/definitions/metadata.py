"""What definitions say about themselves, for people and tools: no part of what is computed, so never a new version."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any, get_args

from featurestore.definitions.names import Duration, duration_us
from featurestore.definitions.specs import (
    Criticality,
    DeprecatedSpec,
    FeatureMetadataSpec,
    Number,
    PIIClass,
    SLOSpec,
)
from featurestore.errors import DefinitionError

_REFERENCE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*/)?[A-Za-z_][A-Za-z0-9_]*:[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class SLO:
    """What a view's readers may rely on; at least one of the three.

    freshness: the newest event is at most so old. latency_ms: a read's p99 in milliseconds. availability: share of
    reads that are answered, above 0, at most 1. Raises DefinitionError when built wrongly.
    """

    freshness: Duration | None = None
    latency_ms: float | None = None
    availability: float | None = None

    def __post_init__(self) -> None:
        if self.freshness is None and self.latency_ms is None and self.availability is None:
            raise DefinitionError("SLO promises nothing", hint='write SLO(freshness="5m")')
        if self.freshness is not None:
            duration_us(self.freshness, "SLO: freshness", positive=True)
        for name, most in (("latency_ms", math.inf), ("availability", 1.0)):
            value = getattr(self, name)
            if value is not None and not (_is_number(value) and 0 < value <= most):
                raise DefinitionError(f"SLO: {name} is {value!r}", hint="like latency_ms=10, availability=0.999")

    @property
    def spec(self) -> SLOSpec:
        """As plain data."""
        return SLOSpec(
            freshness_us=None if self.freshness is None else duration_us(self.freshness, "SLO: freshness"),
            latency_ms=None if self.latency_ms is None else float(self.latency_ms),
            availability=None if self.availability is None else float(self.availability),
        )


@dataclass(frozen=True)
class Deprecated:
    """That a feature should no longer be used; reading it goes on working.

    since: the day, a date or ISO 8601 ("2026-11-01"). replacement: "view:feature" to use instead, if there is one.
    Raises DefinitionError when built wrongly.
    """

    since: date | str
    replacement: str | None = None

    def __post_init__(self) -> None:
        try:
            day = self.since if isinstance(self.since, date) else date.fromisoformat(self.since)
        except (TypeError, ValueError):
            raise DefinitionError(
                f"Deprecated: since is {self.since!r}, no day", hint='write since="2026-11-01"'
            ) from None
        # A datetime is a date, too: only its day counts.
        object.__setattr__(self, "since", day.isoformat()[:10])
        if self.replacement is not None and not (
            isinstance(self.replacement, str) and _REFERENCE.fullmatch(self.replacement)
        ):
            raise DefinitionError(
                f"Deprecated: replacement is {self.replacement!r}", hint='name a feature: replacement="view:feature"'
            )

    @property
    def spec(self) -> DeprecatedSpec:
        """As plain data."""
        return DeprecatedSpec(since=str(self.since), replacement=self.replacement)


def feature_metadata(
    what: str,
    description: str,
    unit: str | None,
    pii: str | None,
    valid_range: tuple[Number | None, Number | None] | None,
    deprecated: Deprecated | None,
) -> FeatureMetadataSpec:
    """What `describe` was given, checked. what: the feature, for messages. Raises DefinitionError."""
    if not isinstance(description, str):
        raise DefinitionError(f"{what}: description is {description!r}", hint="give its description as text")
    if unit is not None and (not isinstance(unit, str) or not unit):
        raise DefinitionError(f"{what}: unit is {unit!r}", hint='like unit="EUR"')
    if pii is not None and pii not in get_args(PIIClass):
        raise DefinitionError(f"{what}: unknown PII class {pii!r}", hint=f"use {', '.join(get_args(PIIClass))}")
    if valid_range is not None:
        _check_range(what, valid_range)
    if deprecated is not None and not isinstance(deprecated, Deprecated):
        raise DefinitionError(
            f"{what}: deprecated is {deprecated!r}", hint='write deprecated=Deprecated(since="2026-11-01")'
        )
    return FeatureMetadataSpec(
        description=description,
        unit=unit,
        pii=pii,  # type: ignore[arg-type]
        valid_range=None if valid_range is None else (valid_range[0], valid_range[1]),
        deprecated=None if deprecated is None else deprecated.spec,
    )


def check_valid_range(what: str, metadata: FeatureMetadataSpec, output_dtype: str) -> None:
    """Raise DefinitionError when a feature that is no number has a range."""
    if metadata.valid_range is not None and output_dtype not in ("Int64", "Float64"):
        raise DefinitionError(
            f"{what} is {output_dtype}, it can have no valid_range", hint="a range is for numbers; leave it out"
        )


def check_view_metadata(what: str, criticality: str | None, slo: SLO | None) -> None:
    """Raise DefinitionError for what a view can't say of itself."""
    if criticality is not None and criticality not in get_args(Criticality):
        raise DefinitionError(
            f"{what}: unknown criticality {criticality!r}", hint=f"use {', '.join(get_args(Criticality))}"
        )
    if slo is not None and not isinstance(slo, SLO):
        raise DefinitionError(f"{what}: slo is {slo!r}", hint='write slo=SLO(freshness="5m")')


def check_people(what: str, owner: object, description: object, tags: object) -> dict[str, str]:
    """The tags, when owner and description are text and tags map text to text, or are None. Raises DefinitionError."""
    for name, value in (("owner", owner), ("description", description)):
        if not isinstance(value, str):
            raise DefinitionError(f"{what}: {name} is {value!r}", hint=f"give its {name} as text")
    known: Mapping[Any, Any] = tags if isinstance(tags, Mapping) else {} if tags is None else {"": None}
    if not all(isinstance(text, str) for pair in known.items() for text in pair):
        raise DefinitionError(f"{what}: tags is {tags!r}", hint='names and values are text: {"tier": "1"}')
    return dict(known)


def _check_range(what: str, valid_range: object) -> None:
    bounds = valid_range if isinstance(valid_range, Sequence) and not isinstance(valid_range, str) else ()
    if (
        len(bounds) != 2
        or not all(bound is None or _is_number(bound) for bound in bounds)
        or bounds[0] is bounds[1] is None
        or (None not in bounds and bounds[0] > bounds[1])
    ):
        raise DefinitionError(
            f"{what}: valid_range is {valid_range!r}", hint="give least and largest, None for no bound: (0, None)"
        )


def _is_number(value: object) -> bool:
    return (
        isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and abs(value) < 2**63
    )
