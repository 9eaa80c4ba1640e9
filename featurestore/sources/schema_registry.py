"""Writers' schemas by the id in Confluent's header, from a schema registry.

An id stands for one schema for ever, so what was fetched is kept. What the registry does not know is asked for again
after a while: a follower of the registry may lag behind.
"""

from __future__ import annotations

import json
import time
from typing import Any

from featurestore.errors import ConfigError, SchemaRegistryUnavailableError

REQUEST_TIMEOUT_S = 5.0
ASK_AGAIN_S = 10.0


class UnknownSchemaError(ValueError):
    """The registry has no Avro schema of this id."""


class SchemaRegistry:
    """A registry that speaks Confluent's protocol (`GET /schemas/ids/ID`).

    url: with user:password@ where it wants them. Raises ConfigError when it is none.
    """

    def __init__(self, url: str) -> None:
        import httpx  # most runs need no registry, and it takes as long to import as sqlalchemy

        try:
            self._client = httpx.Client(base_url=url, timeout=REQUEST_TIMEOUT_S, follow_redirects=True)
            if self._client.base_url.scheme not in ("http", "https"):
                raise httpx.InvalidURL("it begins with http:// or https://")
        except httpx.InvalidURL as error:
            raise ConfigError(f"[schema_registry] url is no URL: {error}", hint="like http://host:8081") from error
        self._name = f"schema registry at {self._client.base_url.host}"
        self._known: dict[int, Any] = {}
        self._unknown: dict[int, tuple[float, str]] = {}

    def writer_schema(self, schema_id: int) -> Any:
        """The schema as JSON data. Raises UnknownSchemaError, or SchemaRegistryUnavailableError: try again later."""
        if schema_id in self._known:
            return self._known[schema_id]
        asked_at, why = self._unknown.get(schema_id, (-ASK_AGAIN_S, ""))
        if time.monotonic() - asked_at < ASK_AGAIN_S:
            raise UnknownSchemaError(why)
        try:
            self._known[schema_id] = self._ask(schema_id)
        except UnknownSchemaError as error:
            self._unknown[schema_id] = (time.monotonic(), str(error))
            raise
        return self._known[schema_id]

    def _ask(self, schema_id: int) -> Any:
        import httpx

        try:
            answer = self._client.get(f"schemas/ids/{schema_id}")
            if answer.status_code == httpx.codes.NOT_FOUND:
                raise UnknownSchemaError(f"schema {schema_id} is not in the registry")
            found = answer.raise_for_status().json()
            kind, text = found.get("schemaType", "AVRO"), found["schema"]
            if kind != "AVRO" or found.get("references"):
                raise UnknownSchemaError(f"schema {schema_id} is {kind} or refers to others: only plain Avro is read")
            return json.loads(text)
        except httpx.HTTPStatusError as error:
            status = error.response.status_code
            hint = "give it a user that may read schemas: http://user:password@…" if status in (401, 403) else None
            raise SchemaRegistryUnavailableError(f"{self._name} answers {status}", hint=hint) from error
        except httpx.HTTPError as error:
            raise SchemaRegistryUnavailableError(
                f"{self._name} does not answer: {error}", hint="start it, or set [schema_registry] url"
            ) from error
        except UnknownSchemaError:
            raise
        except (ValueError, KeyError, AttributeError) as error:
            raise SchemaRegistryUnavailableError(
                f"{self._name} gives no schema: {error!r}", hint="is [schema_registry] url that of a schema registry?"
            ) from error
