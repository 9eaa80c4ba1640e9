"""How large a request may be; what is larger is refused with the limit's name, before any work is done."""

from __future__ import annotations

from dataclasses import dataclass

from featurestore.errors import RequestTooLargeError
from featurestore.serving.protocol import OnlineRequest


@dataclass(frozen=True)
class Limits:
    """Largest request that the server answers; the settings of [serving] with the same names."""

    max_body_bytes: int = 2**20
    max_entities: int = 1_000
    max_features: int = 500

    def check(self, request: OnlineRequest, features: int) -> None:
        """Raises RequestTooLargeError for too many entities or features. features: how many it asks for."""
        if features > self.max_features:
            raise RequestTooLargeError(
                f"the request asks for {features:,} features, the server takes {self.max_features:,} (max_features)",
                hint="split the request, or raise [serving] max_features",
            )
        entities = max(map(len, request.entities.values()), default=0)
        if entities > self.max_entities:
            raise RequestTooLargeError(
                f"the request has {entities:,} entities, the server takes {self.max_entities:,} (max_entities)",
                hint="split the request, or raise [serving] max_entities",
            )
