"""Answers reads of the online store, over HTTP (Feast's protocol) and for the command line.

`FeatureService` answers a decoded request and knows no HTTP; `serve` runs it behind a server.
"""

from __future__ import annotations

from featurestore.serving.protocol import OnlineRequest, OnlineResponse
from featurestore.serving.service import FeatureService

__all__ = ["FeatureService", "OnlineRequest", "OnlineResponse"]
