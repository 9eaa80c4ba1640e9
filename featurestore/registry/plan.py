"""The plan of a change: what applying definitions would add, change and leave, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Union

import msgspec

from featurestore.definitions.specs import EntitySpec, SourceSpec, ViewSpec

Spec = Union[EntitySpec, SourceSpec, ViewSpec]
Kind = Literal["entity", "source", "view"]

METADATA = frozenset({"owner", "description", "tags"})
"""Fields that do not change what is computed: a change of them alone makes no new version."""


@dataclass(frozen=True)
class FieldChange:
    """One field of a definition. before, after: JSON-like values, None where the field was or will not be there."""

    path: str
    before: object
    after: object


@dataclass(frozen=True)
class Change:
    """What happens to one definition. action: "add", "change" or "absent" (deployed, but not in these modules).

    new_version: the version a view will have, None for other kinds.
    """

    action: Literal["add", "change", "absent"]
    kind: Kind
    name: str
    fields: tuple[FieldChange, ...] = ()
    new_version: int | None = None


@dataclass(frozen=True)
class Plan:
    """What `apply` would do, and the definitions it would write."""

    changes: tuple[Change, ...]
    specs: Mapping[tuple[Kind, str], Spec]

    @property
    def has_changes(self) -> bool:
        """Whether applying would write anything; definitions absent from the modules are left as they are."""
        return any(change.action != "absent" for change in self.changes)

    def render(self) -> str:
        """The plan as lines of text, one for each definition and field."""
        signs = {"add": "+", "change": "~", "absent": " "}
        lines: list[str] = []
        for change in self.changes:
            note = " (deployed, not in these modules; left as it is)" if change.action == "absent" else ""
            version = f" version {change.new_version}" if change.new_version else ""
            lines.append(f"  {signs[change.action]} {change.kind} {change.name}{version}{note}")
            for field in change.fields if change.action == "change" else ():
                lines.append(f"      {field.path}: {_text(field.before)} -> {_text(field.after)}")
        return "\n".join(lines) if lines else "  no changes"


def _text(value: object) -> str:
    return "none" if value is None else msgspec.json.encode(value).decode()


def field_changes(before: Spec, after: Spec) -> tuple[FieldChange, ...]:
    """Fields that differ, by their path ("features.count_10m.window.size_us")."""
    left, right = (dict(_flatten("", msgspec.to_builtins(spec))) for spec in (before, after))
    return tuple(
        FieldChange(path, left.get(path), right.get(path))
        for path in sorted({**left, **right})
        if left.get(path) != right.get(path)
    )


def _flatten(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping) and value:
        for key, item in value.items():
            yield from _flatten(f"{prefix}.{key}" if prefix else str(key), item)
    elif isinstance(value, Sequence) and not isinstance(value, str) and value:
        for number, item in enumerate(value):
            name = item["name"] if isinstance(item, Mapping) and "name" in item else number
            yield from _flatten(f"{prefix}.{name}", item)
    else:
        yield prefix, value


def needs_new_version(before: Spec, after: Spec) -> bool:
    """Whether what is computed changes, so that stored rows of the old definition no longer fit."""
    return any(change.path.split(".")[0] not in METADATA for change in field_changes(before, after))
