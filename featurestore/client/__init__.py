"""The thin client of the feature server: httpx and msgspec, nothing else of the project's dependencies."""

from __future__ import annotations

from featurestore.client.client import FeatureStoreClient
from featurestore.client.response import OnlineResponse

__all__ = ["FeatureStoreClient", "OnlineResponse"]
