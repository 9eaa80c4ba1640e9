"""What is looked at before definitions are applied: whether somebody owns them, and what is deprecated in them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from featurestore.definitions.names import nearest
from featurestore.definitions.specs import BatchViewSpec, FeatureServiceSpec, ViewSpec
from featurestore.errors import DefinitionError

if TYPE_CHECKING:
    from featurestore.definitions.resolve import ResolvedDefinitions


def require_owners(resolved: ResolvedDefinitions) -> None:
    """Raise DefinitionError when a view or feature service has no owner: somebody who is asked before it changes."""
    owned: Mapping[str, Mapping[str, ViewSpec | BatchViewSpec | FeatureServiceSpec]] = {
        "view": {**resolved.views, **resolved.batch_views},
        "feature service": resolved.feature_services,
    }
    without = [f"{kind} '{name}'" for kind, specs in owned.items() for name, spec in specs.items() if not spec.owner]
    if without:
        raise DefinitionError(
            f"{', '.join(without)} without an owner, which [registry] require_owner asks for",
            hint='write owner="team@example.com"',
        )


def deprecation_notes(resolved: ResolvedDefinitions) -> list[str]:
    """A sentence for each deprecated feature of these definitions, with the services that read it, in their order."""
    notes = []
    views: tuple[ViewSpec | BatchViewSpec, ...] = (*resolved.views.values(), *resolved.batch_views.values())
    for view in views:
        for feature in view.features:
            told = feature.metadata.deprecated
            if told is None:
                continue
            reference = f"{view.name}:{feature.name}"
            readers = [one.name for one in resolved.feature_services.values() if reference in one.references]
            note = f"{reference} is deprecated since {told.since}"
            note += f"; use {told.replacement}" if told.replacement else ""
            notes.append(note + (f"; read by feature service {', '.join(readers)}" if readers else ""))
    return notes


def check_replacements(views: Mapping[str, ViewSpec | BatchViewSpec]) -> None:
    """Raise DefinitionError when a deprecated feature is to be replaced by itself, or by one that its view lacks.

    views: those of the modules; a replacement in another view is not looked for.
    """
    for view in views.values():
        for feature in view.features:
            told = feature.metadata.deprecated
            if told is None or told.replacement is None:
                continue
            what = f"view '{view.name}': deprecated feature '{feature.name}'"
            other, _, name = told.replacement.partition(":")
            if told.replacement == f"{view.name}:{feature.name}":
                raise DefinitionError(f"{what} is replaced by itself", hint="name another feature, or none")
            names = [known.name for known in views[other].features] if other in views else [name]
            if name not in names:
                raise DefinitionError(f"{what}: there is no '{told.replacement}'", hint=nearest(name, names))
