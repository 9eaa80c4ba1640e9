"""An entity: what features are keyed by."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import polars as pl

from featurestore.definitions.metadata import check_people
from featurestore.definitions.names import check_identifier, check_name, check_not_reserved
from featurestore.definitions.specs import EntitySpec, JoinKeySpec
from featurestore.errors import DefinitionError


class Entity:
    """An entity with its join keys, like `Entity("card", join_keys={"card_id": pl.String})`.

    join_keys: column -> polars dtype: String, an integer (kept as Int64) or Boolean.
    Raises DefinitionError when a name or dtype is not allowed.
    """

    __slots__ = ("description", "name", "owner", "spec", "tags")

    def __init__(
        self,
        name: str,
        join_keys: Mapping[str, Any],
        description: str = "",
        owner: str = "",
        tags: Mapping[str, str] | None = None,
    ) -> None:
        check_name(name, "entity")
        where = f"entity '{name}'"
        if not isinstance(join_keys, Mapping) or not join_keys:
            raise DefinitionError(f"{where}: no join keys", hint='write join_keys={"card_id": pl.String}')
        for key in join_keys:
            check_identifier(key, f"{where}: join key")
            check_not_reserved(key, f"{where}: join key")
        keys = tuple(
            JoinKeySpec(name=key, dtype=_key_dtype(dtype, f"{where}: join key '{key}'"))
            for key, dtype in join_keys.items()
        )
        self.name = name
        self.description = description
        self.owner = owner
        self.tags = check_people(where, owner, description, tags)
        self.spec = EntitySpec(name=name, join_keys=keys, owner=owner, description=description, tags=self.tags)

    @property
    def join_keys(self) -> tuple[str, ...]:
        """Names of the join keys, in order."""
        return tuple(key.name for key in self.spec.join_keys)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Entity) and self.spec == other.spec

    def __hash__(self) -> int:
        return hash(self.name)

    def __repr__(self) -> str:
        return f"Entity({self.name!r}, join_keys={list(self.join_keys)})"


def _key_dtype(dtype: object, where: str) -> str:
    if isinstance(dtype, pl.DataType) or (isinstance(dtype, type) and issubclass(dtype, pl.DataType)):
        if dtype == pl.String:
            return "String"
        if dtype == pl.Boolean:
            return "Boolean"
        # UInt64 and 128-bit integers don't fit into Int64.
        if dtype in (pl.Int8, pl.Int16, pl.Int32, pl.Int64, pl.UInt8, pl.UInt16, pl.UInt32):
            return "Int64"
    raise DefinitionError(
        f"{where}: {dtype} can't be a key", hint="use pl.String, pl.Int64 or pl.Boolean; floats are not exact"
    )
