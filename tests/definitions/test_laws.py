"""Laws over drawn expressions and specs: one text for equal ones, rows on their own, nothing lost in JSON."""

from __future__ import annotations

import math
from collections.abc import Callable
from datetime import datetime, timezone
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from featurestore.definitions.expressions import canonical, check_elementwise, root_columns
from featurestore.definitions.resolve import fingerprint
from featurestore.definitions.specs import (
    BatchViewSpec,
    ColumnSpec,
    DeprecatedSpec,
    EntitySpec,
    FeatureMetadataSpec,
    FeatureServiceSpec,
    FeatureSpec,
    FieldSpec,
    FileSourceSpec,
    JoinKeySpec,
    ServiceViewSpec,
    SLOSpec,
    SourceSpec,
    SQLSourceSpec,
    ViewSpec,
    WindowSpec,
)
from featurestore.errors import DefinitionError
from featurestore.registry.plan import field_changes, needs_new_version

# An expression as plain data: building it twice gives equal expressions that are not the same object.
Recipe = tuple[Any, ...]

BINARY: dict[str, Callable[[pl.Expr, pl.Expr], pl.Expr]] = {
    "+": lambda a, b: a + b,
    "-": lambda a, b: a - b,
    "*": lambda a, b: a * b,
    "max": lambda a, b: pl.max_horizontal(a, b),
    "fill_null": lambda a, b: a.fill_null(b),
    "when": lambda a, b: pl.when(a > b).then(a).otherwise(b),
}
UNARY: dict[str, Callable[[pl.Expr], pl.Expr]] = {
    "abs": lambda a: a.abs(),
    "negate": lambda a: -a,
    "round": lambda a: a.round(1),
    "clip": lambda a: a.clip(-1, 1),
    "float": lambda a: a.cast(pl.Float64),
    "replace": lambda a: a.replace({1: 2, 3: 4}),
    "is_in": lambda a: a.is_in([1, 2]).cast(pl.Int64),
}

leaves: st.SearchStrategy[Recipe] = st.one_of(
    st.tuples(st.just("col"), st.sampled_from("abc")),
    st.tuples(st.just("lit"), st.integers(-5, 5) | st.sampled_from([0.5, -2.25])),
)
recipes = st.recursive(
    leaves,
    lambda inner: (
        st.tuples(st.sampled_from(sorted(BINARY)), inner, inner) | st.tuples(st.sampled_from(sorted(UNARY)), inner)
    ),
    max_leaves=6,
)


def build(recipe: Recipe) -> pl.Expr:
    name, *arguments = recipe
    if name == "col":
        return pl.col(arguments[0])
    if name == "lit":
        return pl.lit(arguments[0])
    operation: Callable[..., pl.Expr] = BINARY[name] if name in BINARY else UNARY[name]
    return operation(*(build(argument) for argument in arguments))


@given(recipes)
def test_equal_expressions_have_one_text_and_name_their_columns(recipe: Recipe) -> None:
    expression = build(recipe)
    check_elementwise(expression, "where")
    assert canonical(expression) == canonical(build(recipe))
    assert all(f'col("{column}")' in canonical(expression) for column in root_columns(expression))


@given(recipes, recipes)
def test_expressions_of_one_text_are_equal(one: Recipe, other: Recipe) -> None:
    if canonical(build(one)) == canonical(build(other)):
        assert build(one).meta.eq(build(other))


@given(recipes, st.sampled_from(["shift", "cum_sum", "sum", "over", "sort", "replace by a column"]))
def test_an_expression_around_one_that_is_refused_is_refused(recipe: Recipe, operation: str) -> None:
    a = build(recipe) + pl.col("a")
    refused = {
        "shift": a.shift(1),
        "cum_sum": a.cum_sum(),
        "sum": a.sum(),
        "over": a.over("b"),
        "sort": a.sort(),
        "replace by a column": a.replace(a, 1),
    }[operation]
    with pytest.raises(DefinitionError, match="is not allowed"):
        check_elementwise((refused + 1).alias("x"), "where")


T, S, N, F, B = pl.col("t"), pl.col("s"), pl.col("n"), pl.col("f"), pl.col("b")
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "n": st.none() | st.integers(-3, 3),
            "f": st.none() | st.sampled_from([0.0, -0.0, 1.5, -2.5, math.inf, math.nan, 1e300]),
            "s": st.none() | st.sampled_from(["", "x", " X1", "é", "12", "2026-01-02", "x2026-01-03"]),
            "b": st.none() | st.booleans(),
            "t": st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2040, 1, 1), timezones=st.just(timezone.utc)),  # noqa: DTZ001
        }
    ),
    max_size=6,
)
SCHEMA = {"n": pl.Int64, "f": pl.Float64, "s": pl.String, "b": pl.Boolean, "t": pl.Datetime("us", "UTC")}
ELEMENTWISE = {
    "arithmetic": (N + 1) * F / 2 - N // 3 % 2,
    "power": F.abs().sqrt() + N**2,
    "logs": F.abs().log1p().exp().log(2),
    "rounding": F.round(1) + F.floor() + F.ceil() + F.clip(-1, 1) + F.sign(),
    "logic": (B & (N > 0)) | ~B ^ S.is_null(),
    "missing": pl.coalesce(F.fill_nan(None), N, 0.5).fill_null(N),
    "membership": S.is_in(["x", "12"]) | N.is_in([1, None]) | F.is_between(-1, 2),
    "horizontal": pl.max_horizontal(N, F) + pl.sum_horizontal(N, F) + pl.mean_horizontal(N, F),
    "branches": pl.when(N > 1).then(F).when(B).then(1.0).otherwise(N),
    "mapping": N.replace({1: 10, 2: 20}) + S.replace_strict({"x": 1}, default=N),
    "text": S.str.to_uppercase().str.strip_chars().str.replace("X", "y").str.slice(0, 3),
    "text as number": S.str.to_integer(strict=False) + S.str.len_bytes() + S.cast(pl.Float64, strict=False),
    "text parts": S.str.extract(r"(\d+)").str.zfill(4) + pl.concat_str([S, S], separator="|"),
    "text patterns": S.str.contains(S) & S.str.contains_any(["1", "é"]) & S.str.starts_with("x"),
    "text many": S.str.replace_many({"x": "yy", "é": "e"}).str.reverse(),
    "text as time": S.str.to_datetime("%Y-%m-%d", strict=False, exact=False),
    "time": T.dt.hour() + T.dt.weekday() + T.dt.epoch("ms") + T.dt.ordinal_day(),
    "local time": T.dt.convert_time_zone("Europe/Berlin").dt.truncate("1d"),
    "time text": T.dt.offset_by("1mo").dt.strftime("%Y-%m-%dT%H"),
    "span": (T - T.dt.truncate("1w")).dt.total_seconds(),
}


@pytest.mark.parametrize("name", ELEMENTWISE)
@given(rows=ROWS)
def test_what_is_allowed_gives_the_same_for_a_row_alone_and_in_any_batch(name: str, rows: list[dict[str, Any]]) -> None:
    expression = ELEMENTWISE[name].alias("x")
    check_elementwise(expression, "derive")
    frame = pl.DataFrame(rows, schema=SCHEMA)
    whole = frame.select(expression)["x"]
    split = pl.concat([frame[:0].select(expression), *(frame[i : i + 1].select(expression) for i in range(len(rows)))])
    assert whole.equals(split["x"], null_equal=True)
    assert frame.reverse().select(expression)["x"].reverse().equals(whole, null_equal=True)


# Specs

names = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
spans = st.integers(0, 2**62)
texts = st.text(max_size=8)
scalars = (
    st.none()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | texts
    | st.booleans()
)
windows = st.builds(
    WindowSpec,
    kind=st.sampled_from(["sliding", "tumbling", "hopping", "lifetime"]),
    size_us=spans,
    every_us=spans,
    offset_us=spans,
    tile_us=spans,
)
tag_sets = st.dictionaries(names, texts, max_size=2)
numbers = st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
metadata = st.builds(
    FeatureMetadataSpec,
    description=texts,
    unit=st.none() | texts,
    pii=st.sampled_from([None, "none", "indirect", "direct", "sensitive"]),
    valid_range=st.none() | st.tuples(st.none() | numbers, st.none() | numbers),
    deprecated=st.none() | st.builds(DeprecatedSpec, since=texts, replacement=st.none() | texts),
)
slos = st.builds(
    SLOSpec,
    freshness_us=st.none() | spans,
    latency_ms=st.none() | st.floats(0, 1e6),
    availability=st.none() | st.floats(0, 1),
)
entities = st.builds(
    EntitySpec,
    owner=texts,
    tags=tag_sets,
    name=names,
    join_keys=st.lists(
        st.builds(JoinKeySpec, name=names, dtype=st.sampled_from(["String", "Int64", "Boolean"])),
        min_size=1,
        max_size=2,
        unique_by=lambda key: key.name,
    ).map(tuple),
    description=texts,
)
features = st.builds(
    FeatureSpec,
    name=names,
    function=st.sampled_from(["count", "sum", "last"]),
    window=windows,
    output_dtype=st.sampled_from(["Int64", "Float64", "String"]),
    column=st.none() | names,
    input_dtype=st.none() | st.sampled_from(["Int64", "String"]),
    default=scalars,
    metadata=metadata,
)
views = st.builds(
    ViewSpec,
    name=names,
    source=names,
    entities=st.lists(entities, min_size=1, max_size=2, unique_by=lambda entity: entity.name).map(tuple),
    features=st.lists(features, min_size=1, max_size=3, unique_by=lambda feature: feature.name).map(tuple),
    where=st.none() | texts,
    derive=st.dictionaries(names, texts, max_size=2).map(lambda columns: tuple(columns.items())),
    ttl_us=spans,
    snapshot_every_us=spans,
    start=st.sampled_from(["earliest", "latest"]),
    owner=texts,
    description=texts,
    tags=tag_sets,
    criticality=st.sampled_from([None, "low", "medium", "high", "critical"]),
    slo=st.none() | slos,
)
batch_views = st.builds(
    BatchViewSpec,
    name=names,
    source=st.builds(FileSourceSpec, path=texts, format=texts, event_time=names, created_time=st.none() | names)
    | st.builds(SQLSourceSpec, url=texts, query=texts, event_time=names, created_time=st.none() | names),
    entities=st.lists(entities, min_size=1, max_size=2, unique_by=lambda entity: entity.name).map(tuple),
    features=st.lists(
        st.builds(FieldSpec, name=names, output_dtype=texts, default=scalars, metadata=metadata),
        min_size=1,
        max_size=3,
        unique_by=lambda field: field.name,
    ).map(tuple),
    ttl_us=spans,
    owner=texts,
    description=texts,
    tags=tag_sets,
    criticality=st.sampled_from([None, "low", "critical"]),
    slo=st.none() | slos,
)
columns = st.builds(
    ColumnSpec,
    name=names,
    dtype=st.sampled_from(["Int64", "Float64", "String", "Boolean", "Datetime"]),
    nullable=st.booleans(),
    unit=st.sampled_from([None, "ms", "iso"]),
    has_default=st.booleans(),
    default=scalars,
)
sources = st.builds(
    SourceSpec,
    name=names,
    topic=texts,
    schema=texts,
    format=st.sampled_from(["json", "avro"]),
    event_time=names,
    max_out_of_orderness_us=spans,
    allowed_lateness_us=spans,
    idle_timeout_us=spans,
    max_future_us=spans,
    columns=st.lists(columns, max_size=3, unique_by=lambda column: column.name).map(tuple),
    owner=texts,
    description=texts,
    tags=tag_sets,
)

services = st.builds(
    FeatureServiceSpec,
    name=names,
    views=st.lists(
        st.builds(
            ServiceViewSpec,
            name=names,
            features=st.lists(names, min_size=1, max_size=3, unique=True).map(tuple),
            fingerprint=texts,
            version=st.integers(1, 9),
        ),
        min_size=1,
        max_size=3,
        unique_by=lambda view: view.name,
    ).map(tuple),
    owner=texts,
    description=texts,
    tags=st.dictionaries(names, texts, max_size=2),
)


@given(views | batch_views | sources | entities | services)
def test_a_spec_survives_json_with_its_fingerprint(spec: Any) -> None:
    again = msgspec.json.decode(msgspec.json.encode(spec, order="sorted"), type=type(spec))
    assert again == spec
    assert fingerprint(again) == fingerprint(spec)
    assert field_changes(spec, again) == ()


@given(views | batch_views, texts, tag_sets, st.none() | slos, metadata)
def test_what_is_said_about_a_view_makes_no_new_version(
    view: Any, text: str, tags: dict[str, str], slo: SLOSpec | None, about: FeatureMetadataSpec
) -> None:
    entities = (msgspec.structs.replace(entity, owner=text, description=text, tags=tags) for entity in view.entities)
    features = (msgspec.structs.replace(feature, metadata=about) for feature in view.features)
    said = {"owner": text, "description": text, "tags": tags, "criticality": "high", "slo": slo}
    other = msgspec.structs.replace(view, entities=tuple(entities), features=tuple(features), **said)
    assert not needs_new_version(view, other)
    assert bool(field_changes(view, other)) == (view != other)


@given(views | batch_views | sources | entities)
def test_what_a_registry_of_before_holds_is_read_with_its_fingerprint(spec: Any) -> None:
    def without(fields: dict[str, Any], *names: str) -> dict[str, Any]:
        return {name: value for name, value in fields.items() if name not in names}

    old = without(msgspec.to_builtins(spec), "criticality", "slo")
    if not isinstance(spec, ViewSpec | BatchViewSpec):
        old = without(old, "owner", "tags")
    old["features"] = [without(feature, "metadata") for feature in old.get("features", ())]
    old["entities"] = [without(entity, "owner", "tags") for entity in old.get("entities", ())]
    again = msgspec.json.decode(msgspec.json.encode(old), type=type(spec))
    assert fingerprint(again) == fingerprint(spec)


@given(st.tuples(views, views) | st.tuples(services, services))
def test_two_that_differ_differ_in_a_field(both: tuple[Any, Any]) -> None:
    one, other = both
    # A plan that shows a change without saying which would not be one.
    assert bool(field_changes(one, other)) == (one != other)


@given(views, st.data())
def test_parts_in_another_order_are_told(view: ViewSpec, data: st.DataObject) -> None:
    mixed = msgspec.structs.replace(
        view,
        features=tuple(data.draw(st.permutations(view.features))),
        derive=tuple(data.draw(st.permutations(view.derive))),
    )
    assert bool(field_changes(view, mixed)) == (view != mixed)
    assert needs_new_version(view, mixed) == (view.features != mixed.features)
