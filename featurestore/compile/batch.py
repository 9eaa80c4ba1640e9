"""A batch view ready to run: nothing is computed, so little is worked out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from featurestore.definitions.specs import BatchViewSpec, FieldSpec

BATCH_STORES = "batch-views/"
"""What the names of batch views' online stores begin with; no source of a stream can be named like this."""


def batch_store(view: str) -> str:
    """The name of a batch view's online store: one of its own, shared by its versions."""
    return f"{BATCH_STORES}{view}"


@dataclass(frozen=True)
class CompiledBatchView:
    """A batch view version. view_id, version: as the registry gave them; part of store keys and paths."""

    view_id: int
    version: int
    spec: BatchViewSpec

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def store(self) -> str:
        """The online store that holds its rows."""
        return batch_store(self.spec.name)

    @cached_property
    def features(self) -> dict[str, FieldSpec]:
        """By name, in the order of the definition, which is that of a stored row."""
        return {field.name: field for field in self.spec.features}

    @cached_property
    def key_names(self) -> list[str]:
        """Names of the join keys, in order."""
        return [key.name for key in self.spec.join_keys]
