"""A streaming feature store: what a pipeline author writes, and `FeatureStore`, which reads what came of it.

Importing this package is cheap; the definitions bring polars when the first of them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurestore.definitions import agg
    from featurestore.definitions.batch import BatchFeatureView, Field, FileSource, SQLSource
    from featurestore.definitions.entity import Entity
    from featurestore.definitions.metadata import SLO, Deprecated
    from featurestore.definitions.service import FeatureService
    from featurestore.definitions.source import KafkaSource
    from featurestore.definitions.view import StreamFeatureView
    from featurestore.definitions.windows import hopping, lifetime, sliding, tumbling
    from featurestore.feature_store import FeatureStore

__version__ = "0.1.0"

_HOMES = {
    "SLO": "definitions.metadata",
    "BatchFeatureView": "definitions.batch",
    "Deprecated": "definitions.metadata",
    "Entity": "definitions.entity",
    "FeatureService": "definitions.service",
    "FeatureStore": "feature_store",
    "Field": "definitions.batch",
    "FileSource": "definitions.batch",
    "KafkaSource": "definitions.source",
    "SQLSource": "definitions.batch",
    "StreamFeatureView": "definitions.view",
    "hopping": "definitions.windows",
    "lifetime": "definitions.windows",
    "sliding": "definitions.windows",
    "tumbling": "definitions.windows",
}

__all__ = [
    "SLO",
    "BatchFeatureView",
    "Deprecated",
    "Entity",
    "FeatureService",
    "FeatureStore",
    "Field",
    "FileSource",
    "KafkaSource",
    "SQLSource",
    "StreamFeatureView",
    "agg",
    "hopping",
    "lifetime",
    "sliding",
    "tumbling",
]


def __getattr__(name: str) -> object:
    if name == "agg":
        return importlib.import_module("featurestore.definitions.agg")
    if name in _HOMES:
        return getattr(importlib.import_module(f"featurestore.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'featurestore' has no attribute {name!r}")
