"""Contracts as data: what a view's features, and a source's events, are promised to be.

Written as YAML in contracts/*.yaml, or as these objects in contracts/*.py. A misspelt key is an error.
"""

# No `from __future__ import annotations`: pydantic reads annotations at run time.
from typing import Annotated, Literal, Optional, Union

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, model_validator

from featurestore.durations import parse_duration_us
from featurestore.errors import ConfigError

Scalar = Union[bool, int, float, str, None]
Dtype = Literal["Int64", "Float64", "String", "Boolean"]


def _duration(value: str) -> str:
    try:
        parse_duration_us(value)
    except ConfigError as error:
        raise ValueError(error.hint or error.message) from error
    return value


Rate = Annotated[float, Field(ge=0, le=1)]
Duration = Annotated[str, AfterValidator(_duration)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class ColumnContract(_Strict):
    """What a column of a source's events is promised to be. min, max: of every value, both inclusive.

    allowed: no value but these. max_null_rate: share of events without a value, from 0 to 1.
    """

    min: Union[int, float, None] = None
    max: Union[int, float, None] = None
    allowed: Optional[list[Scalar]] = None
    max_null_rate: Optional[Rate] = None

    @model_validator(mode="after")
    def _fits(self) -> "ColumnContract":
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min {self.min} is above max {self.max}")
        return self


class FeatureContract(ColumnContract):
    """What a feature is promised to be; as of a column, its nulls counted over entities. dtype: of its values."""

    dtype: Optional[Dtype] = None


class Example(_Strict):
    """Golden values: what a read of this entity as of this instant gives, once the contract's events are in.

    as_of: with a zone; left out: just after the newest event. Floats may differ by a billionth of their size.
    """

    entity: dict[str, Union[bool, int, str]] = Field(min_length=1)
    values: dict[str, Scalar] = Field(min_length=1)
    as_of: Annotated[Optional[AwareDatetime], Field(strict=False)] = None


class ViewContract(_Strict):
    """The contract of a view. features: by name. max_age: how old the newest complete snapshot may be (live).

    events: a file of events, relative to the contract's own; ranges and null rates are verified on what the view
    makes of it for every entity, and the examples too.
    """

    view: str
    features: dict[str, FeatureContract] = {}
    events: Optional[str] = None
    examples: list[Example] = []
    max_age: Optional[Duration] = None

    @model_validator(mode="after")
    def _has_events(self) -> "ViewContract":
        if self.examples and self.events is None:
            raise ValueError("examples need `events`: a file of events that they follow from")
        return self


class SourceContract(_Strict):
    """The contract of a source, verified on sample files. columns: by name.

    max_dead_letter_rate, max_late_rate: shares of the messages, from 0 to 1.
    """

    source: str
    columns: dict[str, ColumnContract] = {}
    max_dead_letter_rate: Rate = 0.0
    max_late_rate: Optional[Rate] = None


Contract = Union[ViewContract, SourceContract]
