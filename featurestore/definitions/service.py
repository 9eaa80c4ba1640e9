"""Feature services: the features that one model reads, under one name, and the selections that they are made of."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Union

from featurestore.definitions.metadata import check_people
from featurestore.definitions.names import check_name, nearest
from featurestore.errors import DefinitionError

if TYPE_CHECKING:
    from featurestore.definitions.batch import BatchFeatureView
    from featurestore.definitions.view import StreamFeatureView

    AnyView = Union[StreamFeatureView, BatchFeatureView]


@dataclass(frozen=True, eq=False)
class FeatureSelection:
    """Some features of a view, in the order named. Made by `view[["count_10m"]]`."""

    view: AnyView
    features: tuple[str, ...]


def select(view: AnyView, names: object) -> FeatureSelection:
    """Features of a view by their names. Raises DefinitionError for none, one named twice, and one it does not have."""
    what = f"view '{view.name}'"
    if not isinstance(names, list | tuple) or not names:
        raise DefinitionError(
            f"{what}: {names!r} is no list of features", hint=f'write {view.name}[["{view.feature_names[0]}"]]'
        )
    for name in names:
        if name not in view.feature_names:
            raise DefinitionError(f"{what} has no feature {name!r}", hint=nearest(str(name), view.feature_names))
    for name, number in Counter(names).items():
        if number > 1:
            raise DefinitionError(f"{what}: feature '{name}' is selected {number} times", hint="name it once")
    return FeatureSelection(view, tuple(names))


@dataclass(frozen=True, eq=False)
class FeatureService:
    """The features that a model reads, like `FeatureService("fraud_v3", features=[cards[["count_10m"]], merchants])`.

    features: views, of which all features are meant, and selections `view[["a", "b"]]`, each view once. Applying it
    pins the version of each view. Two views may have a feature of one name: such a service is read with
    full_feature_names.
    Raises DefinitionError when built wrongly, and when its columns would clash even so.
    """

    name: str
    features: Sequence[AnyView | FeatureSelection]
    owner: str = ""
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name, "feature service")
        what = f"feature service '{self.name}'"
        if not isinstance(self.features, list | tuple) or not self.features:
            raise DefinitionError(
                f"{what}: features is {self.features!r}, not a list with something in it",
                hint='write features=[card_activity[["count_10m"]], merchant_activity]',
            )
        tags = check_people(what, self.owner, self.description, self.tags)
        # Frozen from here on, and what the author passed can't change below it.
        object.__setattr__(self, "features", tuple(_selection(what, part) for part in self.features))
        object.__setattr__(self, "tags", tags)
        for name, number in Counter(part.view.name for part in self.selections).items():
            if number > 1:
                raise DefinitionError(
                    f"{what}: view '{name}' is named {number} times", hint=f'name it once: {name}[["a", "b"]]'
                )
        self._check_columns(what)

    @property
    def selections(self) -> tuple[FeatureSelection, ...]:
        """What is read of each view, in order."""
        return self.features  # type: ignore[return-value]

    @property
    def references(self) -> tuple[str, ...]:
        """ "view:feature" of each feature, in order."""
        return tuple(f"{part.view.name}:{name}" for part in self.selections for name in part.features)

    def _check_columns(self, what: str) -> None:
        """Refuse what no read can give: a key of two types, and names that clash although they are full."""
        keys: dict[str, tuple[str, str]] = {}
        for part in self.selections:
            for key in (key for entity in part.view.entities for key in entity.spec.join_keys):
                dtype, view = keys.setdefault(key.name, (key.dtype, part.view.name))
                if dtype != key.dtype:
                    raise DefinitionError(
                        f"{what}: join key '{key.name}' is {dtype} in view '{view}', {key.dtype} in '{part.view.name}'",
                        hint="let both views have the same entity",
                    )
        seen: dict[str, str] = dict.fromkeys(keys, "a join key")
        for part in self.selections:
            for name in part.features:
                column, reference = f"{part.view.name}__{name}", f"{part.view.name}:{name}"
                if column in seen:
                    raise DefinitionError(
                        f"{what}: '{reference}' and {seen[column]} are both named '{column}' in an answer",
                        hint="rename one of them",
                    )
                seen[column] = f"'{reference}'"


def _selection(what: str, part: object) -> FeatureSelection:
    if isinstance(part, FeatureSelection):
        return part
    from featurestore.definitions.batch import BatchFeatureView
    from featurestore.definitions.view import StreamFeatureView

    if isinstance(part, StreamFeatureView | BatchFeatureView):
        return FeatureSelection(part, part.feature_names)
    raise DefinitionError(
        f"{what}: features holds {part!r}", hint='give views, or some features of one: card_activity[["count_10m"]]'
    )
