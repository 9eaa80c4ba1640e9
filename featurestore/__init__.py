"""A streaming feature store: what a pipeline author writes.

Importing this package is cheap; the definitions bring polars when the first of them is used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from featurestore.definitions import agg
    from featurestore.definitions.entity import Entity
    from featurestore.definitions.source import KafkaSource
    from featurestore.definitions.view import StreamFeatureView
    from featurestore.definitions.windows import hopping, lifetime, sliding, tumbling

__version__ = "0.1.0"

_HOMES = {
    "Entity": "entity",
    "KafkaSource": "source",
    "StreamFeatureView": "view",
    "hopping": "windows",
    "lifetime": "windows",
    "sliding": "windows",
    "tumbling": "windows",
}

__all__ = ["Entity", "KafkaSource", "StreamFeatureView", "agg", "hopping", "lifetime", "sliding", "tumbling"]


def __getattr__(name: str) -> object:
    if name == "agg":
        return importlib.import_module("featurestore.definitions.agg")
    if name in _HOMES:
        return getattr(importlib.import_module(f"featurestore.definitions.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'featurestore' has no attribute {name!r}")
