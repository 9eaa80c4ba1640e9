"""Definitions as the registry writes them: canonical JSON, its hash, and reading it back."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from featurestore.definitions.specs import BatchViewSpec, EntitySpec, FeatureServiceSpec, SourceSpec, ViewSpec
from featurestore.errors import RegistryError

SPEC_TYPES: Mapping[str, type[Any]] = {
    "entity": EntitySpec,
    "source": SourceSpec,
    "view": ViewSpec,
    "batch_view": BatchViewSpec,
    "feature_service": FeatureServiceSpec,
}
"""What a kind of definition is."""
Decoded = TypeVar("Decoded")


def encoded(spec: object) -> str:
    """A definition's canonical JSON: fields by name, expressions as their canonical text."""
    return msgspec.json.encode(spec, order="sorted").decode()


def content_hash(text: str) -> str:
    """SHA-256 of canonical JSON, hexadecimal: of all that a definition says, also what no value depends on."""
    return hashlib.sha256(text.encode()).hexdigest()


def decoded(text: str, kind: type[Decoded], place: str) -> Decoded:
    """A definition from its JSON. place: of the registry, for the message. Raises RegistryError."""
    try:
        return msgspec.json.decode(text, type=kind)
    except msgspec.MsgspecError as error:
        raise RegistryError(
            f"registry {place} holds a definition that can't be read: {error}",
            hint="was it written by another version of featurestore?",
        ) from error
