"""Any definition that is stored is read back as it was, and computes the same."""

from __future__ import annotations

import tempfile
from pathlib import Path

import msgspec
import polars as pl
from hypothesis import given, settings

from featurestore.compile.bind import bind_view
from featurestore.compile.view import compile_view
from featurestore.definitions.expressions import canonical
from featurestore.definitions.resolve import ResolvedDefinitions, fingerprint
from featurestore.definitions.specs import SourceSpec, ViewSpec
from featurestore.registry import Registry
from tests.definitions.test_expression_text import FRAME, expressions, same
from tests.definitions.test_laws import sources, views
from tests.registry.support import SOURCE, resolved, view


@settings(max_examples=60)
@given(views, sources)
def test_any_definition_is_read_back_from_the_registry(spec: ViewSpec, source: SourceSpec) -> None:
    spec = msgspec.structs.replace(spec, source=source.name)
    wanted = ResolvedDefinitions({source.name: source}, {spec.name: spec})
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "registry.db"
        registry = Registry.open(path)
        registry.apply(registry.plan(wanted))
        registry.close()
        again = Registry.open(path, create=False)
        (found,) = again.live_views()
        assert (found.spec, found.fingerprint) == (spec, fingerprint(spec))
        assert again.source(source.name) == source
        assert not again.plan(wanted).has_changes
        again.close()


@settings(max_examples=60)
@given(expressions())
def test_what_is_read_back_computes_the_same(expression: pl.Expr) -> None:
    """In a worker's form: bound from the registry's text alone."""
    spec = view(where=canonical(expression), derive=(("derived", canonical(expression)),))
    with tempfile.TemporaryDirectory() as folder:
        registry = Registry.open(Path(folder) / "registry.db")
        registry.apply(registry.plan(resolved(spec)))
        (found,) = registry.live_views()
        registry.close()
    bound = bind_view(compile_view(found.spec, SOURCE, view_id=found.view_id, version=found.version))
    assert bound.where is not None
    same(expression, bound.where)
    same(expression, bound.derive["derived"])
    assert FRAME.height > 2
