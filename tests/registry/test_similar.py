"""New features that compute what others do already."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from featurestore.definitions.specs import BatchViewSpec, FeatureSpec, FieldSpec, FileSourceSpec, ViewSpec, WindowSpec
from featurestore.registry.similar import Similar, similar_features
from tests.registry.support import CARD, HOUR, count, view


def total(name: str = "total", column: str = "euros", hours: int = 1, **changes: Any) -> FeatureSpec:
    window = WindowSpec(kind="sliding", size_us=hours * HOUR)
    fields: dict[str, Any] = {"function": "sum", "window": window, "output_dtype": "Float64", "input_dtype": "Float64"}
    return FeatureSpec(name=name, column=column, **{**fields, **changes})


def derived(
    name: str, feature: FeatureSpec, column: str = "euros", text: str = 'col("amount")', **more: Any
) -> ViewSpec:
    return view(name, features=(feature,), derive=((column, text),), **more)


KNOWN = derived("known", total())
SAME = (Similar("new:other", "known:total"),)


@pytest.mark.parametrize(
    "new",
    [
        derived("new", total("other")),
        derived("new", total("other", "eur"), column="eur"),
        derived("new", total("other"), owner="somebody", ttl_us=HOUR, description="mine"),
        derived("new", total("other", default=0.0)),
        derived("new", total("other", window=WindowSpec(kind="sliding", size_us=HOUR, tile_us=1_000_000))),
    ],
    ids=["another name", "derived under another name", "what is said of it", "another default", "other tiles"],
)
def test_the_same_under_another_name_is_pointed_out(new: ViewSpec) -> None:
    assert similar_features([new], [KNOWN]) == SAME


@pytest.mark.parametrize(
    "new",
    [
        derived("new", total("other", hours=2)),
        derived("new", total("other", function="max")),
        derived("new", total("other"), text='col("net")'),
        derived("new", total("other"), where='Eq(col("status"), lit("ok"))'),
        derived("new", total("other"), source="refunds"),
        view("new", features=(total("other"),)),
        derived("new", total("other"), entities=(msgspec.structs.replace(CARD, join_keys=()),)),
    ],
    ids=["window", "function", "expression", "filter", "source", "a column of that name", "keys"],
)
def test_what_differs_in_what_it_computes_is_not(new: ViewSpec) -> None:
    assert similar_features([new], [KNOWN]) == ()


def test_what_is_deployed_is_not_pointed_out_again_nor_a_feature_that_was_renamed() -> None:
    assert similar_features([KNOWN], [KNOWN]) == ()
    renamed = derived("known", total("sum_of_euros"))
    assert similar_features([renamed], [KNOWN]) == ()
    other = derived("other", total("total"))
    assert similar_features([other, KNOWN], [KNOWN, other]) == ()


def test_two_new_ones_are_told_once_and_an_old_one_is_what_the_new_one_is_compared_with() -> None:
    first, second = derived("a", total("x")), derived("b", total("y"))
    assert similar_features([first, second], []) == (Similar("b:y", "a:x"),)
    assert similar_features([first, second], [second]) == (Similar("a:x", "b:y"),)


def test_within_one_view() -> None:
    twice = view("new", features=(count(), msgspec.structs.replace(count(), name="again")))
    assert str(similar_features([twice], [])[0]) == "new:again computes what new:count does already"


def test_batch_views_are_alike_by_column_and_source() -> None:
    def batch(name: str, *columns: str, path: str = "cards.parquet") -> BatchViewSpec:
        source = FileSourceSpec(path=path, format="parquet", event_time="ts")
        fields = tuple(FieldSpec(name=column, output_dtype="Int64") for column in columns)
        return BatchViewSpec(name=name, source=source, entities=(CARD,), features=fields)

    known = batch("known", "limit", "age")
    assert similar_features([batch("new", "limit")], [known]) == (Similar("new:limit", "known:limit"),)
    assert similar_features([batch("new", "limit", path="other.parquet")], [known]) == ()
