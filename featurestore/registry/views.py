"""Views as deployed: each version of them, and the route that says which of them readers get."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from featurestore.compile.batch import batch_store
from featurestore.definitions.resolve import fingerprint
from featurestore.definitions.specs import BatchViewSpec, ViewSpec

Start = Literal["earliest", "latest"]
Role = Literal["served", "previous", "canary", "shadow", "retired"]
"""What a version of a view is to readers: "shadow" is computed and, unless a service pins it, read by nobody."""


@dataclass(frozen=True)
class RegisteredView:
    """One version of a deployed view. view_id: of the view, stable and never reused. applied_at: UTC.

    start: where this version begins in the topic, as the definition says or as it was reset. git_revision: of the
    modules that it was applied from, None where that is not known.
    """

    view_id: int
    version: int
    spec: ViewSpec
    applied_at: datetime
    applied_by: str
    start: Start
    git_revision: str | None = None

    @property
    def name(self) -> str:
        """Of the view."""
        return self.spec.name

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the view computes, hexadecimal; the same within a version."""
        return fingerprint(self.spec)

    @property
    def reference(self) -> str:
        """ "view@version"."""
        return f"{self.spec.name}@{self.version}"

    @property
    def store(self) -> str:
        """The online store that holds its rows: its source's."""
        return self.spec.source


@dataclass(frozen=True)
class RegisteredBatchView:
    """One version of a deployed batch view; as RegisteredView."""

    view_id: int
    version: int
    spec: BatchViewSpec
    applied_at: datetime
    applied_by: str
    git_revision: str | None = None

    @property
    def name(self) -> str:
        """Of the view."""
        return self.spec.name

    @property
    def fingerprint(self) -> str:
        """As of a RegisteredView."""
        return fingerprint(self.spec)

    @property
    def reference(self) -> str:
        """ "view@version"."""
        return f"{self.spec.name}@{self.version}"

    @property
    def store(self) -> str:
        """The online store that holds its rows: one of its own, shared by its versions."""
        return batch_store(self.spec.name)


AnyView = RegisteredView | RegisteredBatchView


@dataclass(frozen=True)
class Route:
    """Which version of a view is read by those who name none.

    previous: what was served before, computed still, for `rollback`. canary: a version that gets canary_share (above
    0, below 1) of the entities. changed_at: UTC.
    """

    served: int
    changed_at: datetime
    changed_by: str
    previous: int | None = None
    canary: int | None = None
    canary_share: float | None = None

    def role(self, version: int) -> Role:
        """What a version that is computed is to readers."""
        roles: dict[int | None, Role] = {self.previous: "previous", self.canary: "canary", self.served: "served"}
        return roles.get(version, "shadow")


@dataclass(frozen=True)
class ViewVersion:
    """A version of a view as history tells it. retired_at: when it ceased to be computed, None while it is."""

    view: str
    version: int
    created_at: datetime
    created_by: str
    git_revision: str | None
    content_hash: str
    retired_at: datetime | None
    retired_by: str | None
    role: Role
