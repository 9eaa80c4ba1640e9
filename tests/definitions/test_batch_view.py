"""Batch views and their sources are checked when they are built; specs hold no secret."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from featurestore import BatchFeatureView, Entity, Field, FileSource, SQLSource
from featurestore.definitions.discover import load_definitions
from featurestore.definitions.resolve import fingerprint, resolve_all
from featurestore.definitions.resolve_batch import resolve_batch_view
from featurestore.errors import DefinitionError

CARD = Entity("card", join_keys={"card_id": pl.String})
FILE = FileSource("limits/*.parquet", event_time="valid_from", created_time="loaded_at")
_numbers = itertools.count()


def view(**changes: Any) -> BatchFeatureView:
    """A view with some arguments changed."""
    arguments: dict[str, Any] = {
        "source": FILE,
        "entities": [CARD],
        "features": [Field("credit_limit", pl.Float64, default=0), Field("tier", pl.String)],
        "ttl": "30d",
        "owner": "risk@example.com",
        "tags": {"tier": "1"},
    }
    return BatchFeatureView("card_limits", **{**arguments, **changes})


def test_a_view_becomes_plain_data():
    spec = resolve_batch_view(view())
    assert spec.source.format == "parquet"  # type: ignore[union-attr]
    assert [(field.name, field.output_dtype, field.default) for field in spec.features] == [
        ("credit_limit", "Float64", 0.0),
        ("tier", "String", None),
    ]
    assert type(spec.features[0].default) is float
    assert spec.ttl_us == 30 * 86_400_000_000


@pytest.mark.parametrize(
    ("build", "says"),
    [
        (lambda: FileSource("limits.txt", event_time="t"), "format can't be told"),
        (lambda: FileSource("limits.txt", event_time="t", format="orc"), "unknown format 'orc'"),
        (lambda: FileSource("", event_time="t"), "path is no text"),
        (lambda: FileSource("a.csv", event_time=""), "event_time is ''"),
        (lambda: FileSource("a.csv", event_time="t", created_time="t"), "created_time is the event_time column"),
        (lambda: FileSource("s3://key:secret@bucket/a.csv", event_time="t"), "a key in the URL"),
        (lambda: SQLSource("limits.db", "SELECT 1", event_time="t"), "url is 'limits.db'"),
        (lambda: SQLSource("env:", "SELECT 1", event_time="t"), "url is 'env:'"),
        (lambda: SQLSource("postgresql://me:secret@host/db", "SELECT 1", event_time="t"), "a password in the URL"),
        (lambda: SQLSource("sqlite:///a.db", " ", event_time="t"), "query is empty"),
        (lambda: Field("created_timestamp", pl.Int64), "is a column of the feature store"),
        (lambda: Field("a b", pl.Int64), "not a valid name"),
        (lambda: Field("a", pl.UInt64), "no dtype of a feature"),
        (lambda: Field("a", "Int64"), "no dtype of a feature"),
        (lambda: Field("a", pl.Int64, default=1.5), "is Int64, its default is 1.5"),
        (lambda: Field("a", pl.Int64, default=True), "is Int64, its default is True"),
        (lambda: Field("a", pl.Boolean, default=1), "is Boolean, its default is 1"),
        (lambda: view(source="limits.parquet"), "view 'card_limits': source is 'limits.parquet'"),
        (lambda: view(features=[]), r"features is \[\]"),
        (lambda: view(features={"a": pl.Int64}), "features is"),
        (lambda: view(features=[Field("a", pl.Int64), Field("a", pl.Int64)]), "'a' is defined 2 times"),
        (lambda: view(features=[Field("card_id", pl.String)]), "has the name of a join key"),
        (lambda: view(entities=["card"]), "entities holds 'card'"),
        (lambda: view(entities=[CARD, CARD]), "comes from two entities"),
        (lambda: view(ttl="soon"), "ttl"),
        (lambda: view(tags={"a": 1}), "tags is"),
        (lambda: view(owner=None), "owner is None"),
    ],
)
def test_what_is_wrong_is_named(build: Callable[[], object], says: str):
    with pytest.raises(DefinitionError, match=says) as caught:
        build()
    assert "secret" not in str(caught.value)
    assert caught.value.hint


def test_the_fingerprint_follows_what_is_read_and_not_who_owns_it():
    base = fingerprint(resolve_batch_view(view()))
    assert fingerprint(resolve_batch_view(view(owner="x", description="y", tags={}))) == base
    for changed in (
        view(ttl="31d"),
        view(source=FileSource("limits/*.parquet", event_time="valid_from")),
        view(source=SQLSource("sqlite:///limits.db", "SELECT 1", event_time="valid_from", created_time="loaded_at")),
        view(features=[Field("tier", pl.String), Field("credit_limit", pl.Float64, default=0)]),
    ):
        assert fingerprint(resolve_batch_view(changed)) != base


def project(folder: Path, text: str) -> str:
    """A module of its own name in a folder."""
    name = f"batch_definitions_{next(_numbers)}"
    (folder / f"{name}.py").write_text(text)
    return name


HEAD = """
import polars as pl
from featurestore import BatchFeatureView, Entity, Field, FileSource, KafkaSource, StreamFeatureView, agg
card = Entity("card", join_keys={"card_id": pl.String})
limits = BatchFeatureView("limits", source=FileSource("a.csv", event_time="t"), entities=[card],
                          features=[Field("credit", pl.Int64)])
"""


def test_a_module_of_batch_views_alone_is_found(tmp_path: Path):
    found = load_definitions([project(tmp_path, HEAD)], tmp_path)
    assert list(found.batch_views) == ["limits"]
    assert list(found.entities) == ["card"]
    resolved = resolve_all(found, tmp_path)
    assert list(resolved.batch_views) == ["limits"]
    assert resolved.views == {}


@pytest.mark.parametrize(
    "more",
    [
        'other = BatchFeatureView("limits", source=FileSource("b.csv", event_time="t"), entities=[card],\n'
        '                         features=[Field("credit", pl.Int64)])',
        'other = StreamFeatureView("limits", source=KafkaSource("s", topic="s", schema="s.avsc", event_time="t"),\n'
        '                          entities=[card], features=[agg.count(over="1h")])',
    ],
)
def test_a_name_is_defined_once_over_both_kinds(tmp_path: Path, more: str):
    with pytest.raises(DefinitionError, match="'limits' is defined twice"):
        load_definitions([project(tmp_path, HEAD + more)], tmp_path)
