"""The plan of a change: what applying definitions would add, change and leave, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, Union

import msgspec

from featurestore.definitions.resolve import ResolvedDefinitions, fingerprint
from featurestore.definitions.specs import BatchViewSpec, EntitySpec, FeatureServiceSpec, SourceSpec, ViewSpec
from featurestore.errors import RegistryError
from featurestore.registry.services import pinned

Spec = Union[EntitySpec, SourceSpec, ViewSpec, BatchViewSpec, FeatureServiceSpec]
Kind = Literal["entity", "source", "view", "batch_view", "feature_service"]
VIEW_KINDS: tuple[Kind, ...] = ("view", "batch_view")
"""Kinds that have versions, and share one set of names."""
READ_KINDS: tuple[Kind, ...] = (*VIEW_KINDS, "feature_service")
"""Kinds that are asked for by name; a plan tells those that its modules lack."""
Key = tuple[Kind, str]
"""Kind and name of a definition."""


class StoredDefinition(NamedTuple):
    """A deployed definition. version: the newest of a view, 1 of others. live: of a view, the versions that are
    computed, by fingerprint. last: the largest version that it ever had."""

    id: int
    version: int
    spec: Spec
    live: Mapping[str, int]
    last: int


Stored = Mapping[Key, StoredDefinition]
"""What is deployed."""


@dataclass(frozen=True)
class FieldChange:
    """One field of a definition. before, after: JSON-like values, None where the field was or will not be there."""

    path: str
    before: object
    after: object

    def text(self) -> str:
        """What was, and what will be."""
        return f"{_text(self.before)} -> {_text(self.after)}"


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
    """What `apply` would do, and the definitions it would write.

    specs: those that are added or changed. unchanged: deployed as they are wanted. before: version and definition of
    each wanted one that was deployed when the plan was made; `apply` refuses a plan that no longer fits.
    """

    changes: tuple[Change, ...]
    specs: Mapping[Key, Spec]
    unchanged: tuple[Key, ...] = ()
    before: Mapping[Key, tuple[int, Spec]] = field(default_factory=dict)

    @property
    def added(self) -> tuple[Change, ...]:
        """Definitions that are not deployed yet."""
        return tuple(change for change in self.changes if change.action == "add")

    @property
    def changed(self) -> tuple[Change, ...]:
        """Definitions that are deployed differently."""
        return tuple(change for change in self.changes if change.action == "change")

    @property
    def absent(self) -> tuple[Change, ...]:
        """Views and feature services that are deployed, but not in these modules. They are left as they are."""
        return tuple(change for change in self.changes if change.action == "absent")

    @property
    def has_changes(self) -> bool:
        """Whether applying would write anything; definitions absent from the modules are left as they are."""
        return any(change.action != "absent" for change in self.changes)

    def render(self, classes: Mapping[Key, Sequence[tuple[str, str]]] | None = None) -> str:
        """The plan as lines of text, one for each definition and field.

        classes: of a change, the class of each of its fields and the reason, where they are known.
        """
        signs = {"add": "+", "change": "~", "absent": " "}
        lines: list[str] = []
        for change in self.changes:
            note = " (deployed, not in these modules; left as it is)" if change.action == "absent" else ""
            version = f" version {change.new_version}" if change.new_version else ""
            lines.append(f"  {signs[change.action]} {change.kind.replace('_', ' ')} {change.name}{version}{note}")
            known = (classes or {}).get((change.kind, change.name), ())
            for number, part in enumerate(change.fields if change.action == "change" else ()):
                lines.append(f"      {part.path}: {part.text()}")
                if number < len(known) and known[number][0] != "compatible":
                    lines.append(f"          {known[number][0]}: {known[number][1]}")
        return "\n".join(lines) if lines else "  no changes"


def _text(value: object) -> str:
    return "none" if value is None else msgspec.json.encode(value).decode()


def field_changes(before: Spec, after: Spec) -> tuple[FieldChange, ...]:
    """Fields that differ, by their path ("features.count_10m.window.size_us").

    Named parts in another order are told too ("features.order"): the order of features is that of stored rows.
    """
    left, right = _fields(before), _fields(after)
    old, new = dict(_flatten("", left)), dict(_flatten("", right))
    changes = [
        FieldChange(path, old.get(path), new.get(path))
        for path in sorted({**old, **new})
        if old.get(path) != new.get(path)
    ]
    orders = dict(_orders("", right))
    for path, names in _orders("", left):
        other = orders.get(path, names)
        if names != other and sorted(names) == sorted(other):
            changes.append(FieldChange(f"{path}.order", names, other))
    return tuple(changes)


def needs_new_version(before: Spec, after: Spec) -> bool:
    """Whether what is computed changes, so that stored rows of the old definition no longer fit."""
    return fingerprint(before) != fingerprint(after)


def _fields(spec: Spec) -> dict[str, object]:
    fields: dict[str, object] = msgspec.to_builtins(spec)
    if isinstance(spec, ViewSpec):
        fields["derive"] = dict(spec.derive)
    return fields


def _flatten(prefix: str, value: object) -> Iterator[tuple[str, object]]:
    parts = _parts(value)
    if not parts:
        yield prefix, value
    for name, item in parts:
        yield from _flatten(f"{prefix}.{name}" if prefix else name, item)


def _orders(prefix: str, value: object) -> Iterator[tuple[str, list[str]]]:
    """(path, names in order) of lists of named parts, and of what is derived."""
    parts = _parts(value)
    if parts and (prefix == "derive" or not isinstance(value, Mapping)):
        yield prefix, [name for name, _ in parts]
    for name, item in parts:
        yield from _orders(f"{prefix}.{name}" if prefix else name, item)


def _parts(value: object) -> list[tuple[str, object]]:
    """(name, item) of a mapping, or of a list by its items' own names; none of a plain value or a list of such."""
    if isinstance(value, Mapping):
        return [(str(key), item) for key, item in value.items()]
    if isinstance(value, Sequence) and not all(isinstance(item, str) for item in value):
        return [
            (str(item["name"]) if isinstance(item, Mapping) and "name" in item else str(number), item)
            for number, item in enumerate(value)
        ]
    return []


def still_fits(key: Key, plan: Plan, stored: Stored) -> bool:
    """Whether a definition is deployed as it was when planned; False when it already is as the plan wants it."""
    row, before = stored.get(key), plan.before.get(key)
    now = None if row is None else (row.version, row.spec)
    if now == before:
        return True
    wanted = plan.specs[key] if key in plan.specs else plan.before[key][1]
    if now is not None and now[1] == wanted:
        return False
    raise RegistryError(f"{key[0]} '{key[1]}' changed since the plan was made", hint="plan again")


def make_plan(stored: Stored, resolved: ResolvedDefinitions) -> Plan:
    """What applying these definitions would change. Raises RegistryError where a view of the other kind has a name."""
    _refuse_other_kind(stored, resolved)
    all_views: tuple[ViewSpec | BatchViewSpec, ...] = (*resolved.views.values(), *resolved.batch_views.values())
    entities = {entity.name: entity for view in all_views for entity in view.entities}
    wanted: dict[Key, Spec] = {
        **{("entity", name): spec for name, spec in sorted(entities.items())},
        **{("source", name): spec for name, spec in sorted(resolved.sources.items())},
        **{("view", name): spec for name, spec in sorted(resolved.views.items())},
        **{("batch_view", name): spec for name, spec in sorted(resolved.batch_views.items())},
        **{("feature_service", name): spec for name, spec in sorted(resolved.feature_services.items())},
    }
    changes: list[Change] = []
    specs: dict[Key, Spec] = {}
    unchanged: list[Key] = []
    live = {name: row.live for (kind, name), row in stored.items() if kind in VIEW_KINDS}
    versions: dict[str, int] = {}  # that views will have; they come before the services that pin them
    for (kind, name), defined in wanted.items():
        row = stored.get((kind, name))
        spec, version = defined, None
        if isinstance(spec, FeatureServiceSpec):
            before_spec = row.spec if row and isinstance(row.spec, FeatureServiceSpec) else None
            spec = pinned(spec, before_spec, versions, live)
        elif kind in VIEW_KINDS:
            version = versions[name] = _version(row, spec)
        if row is None:
            changes.append(Change("add", kind, name, (), version))
        elif row.spec != spec:
            changes.append(Change("change", kind, name, field_changes(row.spec, spec), version))
        else:
            unchanged.append((kind, name))
            continue
        specs[(kind, name)] = spec
    changes.extend(
        Change("absent", kind, name)
        for kind, name in sorted(stored)
        if kind in READ_KINDS and (kind, name) not in wanted
    )
    before = {key: (stored[key].version, stored[key].spec) for key in wanted if key in stored}
    return Plan(tuple(changes), specs, tuple(unchanged), before)


def _version(row: StoredDefinition | None, spec: Spec) -> int:
    """The version that a view will have: the present one, another that is computed and is the same, or a new one."""
    if row is None:
        return 1
    if not needs_new_version(row.spec, spec):
        return row.version
    return row.live.get(fingerprint(spec), row.last + 1)


def _refuse_other_kind(stored: Stored, resolved: ResolvedDefinitions) -> None:
    """Raise RegistryError for a name that a view of the other kind has: both are asked for as `name:feature`."""
    told = {"view": "a stream view", "batch_view": "a batch view"}
    for name in sorted({*resolved.views, *resolved.batch_views}):
        wanted = "view" if name in resolved.views else "batch_view"
        for kind in VIEW_KINDS:
            if kind != wanted and (kind, name) in stored:
                raise RegistryError(f"view '{name}' is deployed as {told[kind]} already", hint="choose another name")
