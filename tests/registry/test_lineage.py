"""Lineage: the columns found in canonical text are those that polars reads, and the graph runs both ways."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest

from featurestore.definitions.expressions import canonical, root_columns
from featurestore.definitions.resolve import ResolvedDefinitions
from featurestore.definitions.specs import ColumnSpec, FeatureSpec, SourceSpec, ViewSpec, WindowSpec
from featurestore.errors import DefinitionError
from featurestore.registry import Registry
from featurestore.registry.impact import reached_features
from featurestore.registry.lineage import Lineage, Node, build_lineage, columns_of, mermaid
from tests.registry.test_registry import CARD, SOURCE

COLUMNS = ("card_id", "ts", "amount", "rate", "status", "unused")


@pytest.mark.parametrize(
    "expression",
    [
        pl.lit(1),
        pl.col("a") * pl.col("b") + 1,
        pl.col('quo"te\\') > 0,
        pl.col("a") == 'col("b")',
        pl.col("a").is_in(['col("b")', "c"]),
        pl.when(pl.col("a") > 0).then(pl.col("b")).otherwise(pl.col("ä")),
        pl.col("a").str.replace_all('"', 'col("x")').alias("b"),
        pl.coalesce("a", pl.col("b").cast(pl.Float64)),
    ],
)
def test_columns_of_the_text_are_those_that_polars_reads(expression: pl.Expr) -> None:
    assert columns_of(canonical(expression)) == root_columns(expression)


def definitions() -> tuple[SourceSpec, ViewSpec]:
    columns = tuple(ColumnSpec(name=name, dtype="String") for name in COLUMNS)
    source = msgspec.structs.replace(SOURCE, topic="payments_topic", columns=columns)
    hour = WindowSpec(kind="sliding", size_us=3_600_000_000)
    features = (
        FeatureSpec(name="n", function="count", window=hour, output_dtype="Int64"),
        FeatureSpec(name="eur", function="sum", window=hour, output_dtype="Float64", column="euros"),
    )
    view = ViewSpec(
        name="activity",
        source="payments",
        entities=(CARD,),
        features=features,
        where=canonical(pl.col("status") == "ok"),
        derive=(("euros", canonical(pl.col("amount") * pl.col("rate"))),),
    )
    return source, view


def graph() -> Lineage:
    source, view = definitions()
    return build_lineage({"payments": source}, [view])


def columns(feature: str) -> set[tuple[str, str]]:
    return {(edge.source.name, edge.role) for edge in graph().inputs[Node("feature", feature)]}


def test_a_feature_has_the_columns_of_its_value_filter_keys_and_time() -> None:
    common = {("payments.ts", "time"), ("payments.card_id", "key"), ("payments.status", "where")}
    assert columns("activity:n") == common
    assert columns("activity:eur") == common | {("payments.amount", "value"), ("payments.rate", "value")}


def test_downstream_of_a_column_is_what_reads_it_and_no_more() -> None:
    lineage = graph()
    reached = {edge.target.name for edge in lineage.edges_from(lineage.find("payments_topic.amount"), "downstream")}
    assert reached == {"activity:eur", "activity"}
    assert lineage.edges_from(lineage.find("payments.unused"), "downstream") == []
    above = {edge.source for edge in lineage.edges_from(lineage.find("activity:eur"), "upstream")}
    assert Node("topic", "payments_topic") in above
    assert Node("column", "payments.unused") not in above


def test_an_unknown_name_is_told() -> None:
    with pytest.raises(DefinitionError, match="nothing is called 'amuont'"):
        graph().find("amuont")


def test_mermaid_has_a_line_for_every_node_and_edge() -> None:
    lineage = graph()
    edges = lineage.edges_from(lineage.find("payments.amount"), "downstream")
    assert mermaid(edges).splitlines()[1:] == [
        '  n0["column payments.amount"]',
        '  n1["feature activity:eur"]',
        '  n2["view activity"]',
        "  n0 -->|value| n1",
        "  n1 --> n2",
    ]


@pytest.mark.parametrize(
    ("change", "reached"),
    [
        ({"columns": {"amount": "Float64"}}, ("activity:eur",)),
        ({"columns": {"status": "Int64"}}, ("activity:eur", "activity:n")),
        ({"columns": {"unused": "Int64"}}, ()),
        ({"description": "other", "owner": "o@example.com", "tags": {"a": "b"}}, ()),
        ({"allowed_lateness_us": 7}, ("activity:eur", "activity:n")),
        ({"topic": "other"}, ("activity:eur", "activity:n")),
    ],
)
def test_the_change_of_a_source_reaches_what_reads_it(
    tmp_path: Path, change: dict[str, Any], reached: tuple[str, ...]
) -> None:
    source, view = definitions()
    registry = Registry.open(tmp_path / "registry.db")
    registry.apply(registry.plan(ResolvedDefinitions({"payments": source}, {"activity": view})))
    dtypes = change.pop("columns", {})
    columns = tuple(msgspec.structs.replace(one, dtype=dtypes.get(one.name, one.dtype)) for one in source.columns)
    changed = msgspec.structs.replace(source, columns=columns, **change)
    plan = registry.plan(ResolvedDefinitions({"payments": changed}, {"activity": view}))
    assert reached_features(plan, [source], [view]) == {"payments": reached}
    registry.close()
