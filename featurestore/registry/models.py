"""Models and the feature service that each of their versions reads: written down once, with the versions it pinned.

A record tells what a model was made with. It is kept for good: a service that moves on takes no model along.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, Literal

from sqlalchemy import Connection, select, update
from sqlalchemy import insert as insert_into

from featurestore.definitions.names import nearest
from featurestore.definitions.resolve import fingerprint
from featurestore.definitions.specs import FeatureServiceSpec, ServiceViewSpec
from featurestore.errors import RegistryError, UnknownFeatureError
from featurestore.registry.database import Database
from featurestore.registry.history import record, user
from featurestore.registry.records import SPEC_TYPES, content_hash, decoded, encoded
from featurestore.registry.served import ServedBatchView, ServedDefinitions, ServedView
from featurestore.registry.services import find_service
from featurestore.registry.tables import DEFINITIONS, MODELS
from featurestore.registry.version_rows import find_view, live_rows
from featurestore.registry.versions import split_reference
from featurestore.registry.views import Role


@dataclass(frozen=True)
class TrainingSetMark:
    """A training set. manifest: its path; sha256: of the manifest's bytes, hexadecimal."""

    manifest: str
    sha256: str


@dataclass(frozen=True)
class ModelLink:
    """A version of a model and what it reads. service: as it was, with the versions that it pinned; service_hash:
    SHA-256 of its canonical JSON. run_id: of MLflow. linked_at: UTC."""

    name: str
    version: str
    uri: str | None
    service: FeatureServiceSpec
    service_hash: str
    training_set: TrainingSetMark | None
    run_id: str | None
    linked_at: datetime
    linked_by: str

    @property
    def reference(self) -> str:
        """ "name/version", as in MLflow's URIs."""
        return f"{self.name}/{self.version}"


@dataclass(frozen=True)
class PinNow:
    """What became of a version of a view that a model reads. computed: the version that gives its values now, itself or
    one that computes the same, None when there is none; role: of that one; service_pins: what the service reads now."""

    view: str
    version: int
    features: tuple[str, ...]
    computed: int | None
    role: Role | None
    service_pins: int | None


@dataclass(frozen=True)
class ModelNow:
    """How a model's features are read now. service: whether its service gives them still, gives others, or is gone."""

    service: Literal["same", "other", "gone"]
    pins: tuple[PinNow, ...]

    @property
    def readable(self) -> bool:
        """Whether all of them are computed."""
        return all(pin.computed is not None for pin in self.pins)


class Models:
    """Links versions of models to feature services, and finds them from either side."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def link(
        self,
        name: str,
        version: str,
        service: str | FeatureServiceSpec,
        *,
        uri: str | None = None,
        training_set: TrainingSetMark | None = None,
        run_id: str | None = None,
    ) -> ModelLink:
        """Write down what a version of a model reads, and return it.

        service: the name of one, for what it reads now; or as it was when the model was trained. The same link again
        changes nothing; one that tells more (a URI, a training set, a run) adds that.
        Raises UnknownFeatureServiceError, and RegistryError for what contradicts an earlier link.
        """
        if not name or not version:
            raise RegistryError("a model has a name and a version", hint="featurestore model link NAME VERSION …")
        with self._database.transaction(write=True) as connection:
            deployed = self._deployed(connection, service if isinstance(service, str) else service.name)
            spec = deployed if isinstance(service, str) else service
            mine = (MODELS.c.name == name, MODELS.c.version == version)
            row = connection.execute(select(MODELS).where(*mine)).first()
            given = {
                "uri": uri,
                "training_set": training_set.manifest if training_set else None,
                "training_set_hash": training_set.sha256 if training_set else None,
                "run_id": run_id,
            }
            if row is None:
                text = encoded(spec)
                values: dict[str, Any] = {"name": name, "version": version, "service": spec.name, **given}
                values |= {"service_spec": text, "service_hash": content_hash(text)}
                values |= {"linked_at": datetime.now(timezone.utc), "linked_by": user()}
                connection.execute(insert_into(MODELS).values(**values))
            else:
                found = self._link(row)
                values = _additions(found, given, None if isinstance(service, str) else spec, spec.name)
                if not values:
                    return found
                connection.execute(update(MODELS).where(MODELS.c.id == row.id).values(**values))
            made = self._link(connection.execute(select(MODELS).where(*mine)).one())
            note = f"version {version} reads feature service {spec.name}"
            record(connection, "link", "model", name, content_hash=made.service_hash, note=note)
            return made

    def of_model(self, name: str, version: str) -> ModelLink:
        """What a version of a model reads. Raises RegistryError for one that is not linked, telling the nearest."""
        links = self.find()
        for link in links:
            if (link.name, link.version) == (name, version):
                return link
        versions = [link.version for link in links if link.name == name]
        hint = f"linked are {', '.join(versions)}" if versions else nearest(name, {link.name for link in links})
        raise RegistryError(f"version {version} of model '{name}' is not linked to a feature service", hint=hint)

    def of_service(self, name: str) -> list[ModelLink]:
        """Versions of models that read a service, by name. Raises UnknownFeatureServiceError."""
        return self.find(service=name)

    def find(
        self, *, service: str | None = None, view: str | None = None, feature: str | None = None
    ) -> list[ModelLink]:
        """Versions of models, by name and in the order in which they were linked.

        service: those that read it; view: those that read a view ("activity") or a version of it ("activity@2");
        feature: those that read "view:feature" or "view@2:feature".
        Raises UnknownFeatureServiceError, UnknownViewError, UnknownFeatureError for what nothing is called.
        """
        with self._database.transaction() as connection:
            if service is not None:
                self._deployed(connection, service)
            for asked in (view, feature):
                if asked is not None:
                    self._check_known(connection, asked)
            rows = connection.execute(select(MODELS).order_by(MODELS.c.name, MODELS.c.id)).all()
        return [
            link
            for link in map(self._link, rows)
            if (service is None or link.service.name == service)
            and all(_reads(link.service, asked) for asked in (view, feature) if asked is not None)
        ]

    def _deployed(self, connection: Connection, name: str) -> FeatureServiceSpec:
        rows = connection.execute(select(DEFINITIONS).where(DEFINITIONS.c.kind == "feature_service"))
        place = self._database.place
        return find_service({row.name: decoded(row.spec, FeatureServiceSpec, place) for row in rows}, name)

    def _check_known(self, connection: Connection, asked: str) -> None:
        reference, colon, feature = asked.partition(":")
        name, _ = split_reference(reference)
        view = find_view(connection, name)
        if not colon:
            return
        specs = [decoded(view.spec, SPEC_TYPES[view.kind], self._database.place)]
        specs += [
            decoded(row.spec, SPEC_TYPES[view.kind], self._database.place)
            for row in live_rows(connection, view.kind)
            if row.name == name
        ]
        has = {one.name for spec in specs for one in spec.features}
        # A feature that no version has any more may be what an old model reads.
        texts = connection.execute(select(MODELS.c.service_spec)).scalars()
        linked = [decoded(text, FeatureServiceSpec, self._database.place) for text in texts]
        if feature not in has and not any(_reads(spec, asked) for spec in linked):
            raise UnknownFeatureError(f"view '{name}' has no feature '{feature}'", hint=nearest(feature, has))

    def _link(self, row: Any) -> ModelLink:
        mark = None if row.training_set is None else TrainingSetMark(row.training_set, row.training_set_hash)
        spec = decoded(row.service_spec, FeatureServiceSpec, self._database.place)
        return ModelLink(
            row.name,
            row.version,
            row.uri,
            spec,
            row.service_hash,
            mark,
            row.run_id,
            row.linked_at,
            row.linked_by,
        )


def reads(service: FeatureServiceSpec) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    """What a service gives, whatever it is called and whoever owns it: equal where the values are the same."""
    return tuple((view.name, view.features, view.fingerprint) for view in service.views)


def model_now(link: ModelLink, served: ServedDefinitions) -> ModelNow:
    """What became of a model's features. served: what can be read now (`served.read_served`)."""
    service = served.services.get(link.service.name)
    pins: dict[str, ServiceViewSpec] = {} if service is None else {pin.name: pin for pin in service.views}
    state: Literal["same", "other", "gone"] = "gone"
    if service is not None:
        state = "same" if reads(service) == reads(link.service) else "other"
    return ModelNow(state, tuple(_pin_now(pin, pins.get(pin.name), served) for pin in link.service.views))


def computed_version(pin: ServiceViewSpec, served: ServedDefinitions) -> int | None:
    """The version of a view that a pin is read from: the pinned one, or the newest that computes the same."""
    every: tuple[ServedView | ServedBatchView, ...] = (*served.views, *served.batch_views)
    live = {view.version: view.spec for view in every if view.spec.name == pin.name}
    if pin.version in live:
        return pin.version
    return max((version for version, spec in live.items() if fingerprint(spec) == pin.fingerprint), default=None)


def _pin_now(pin: ServiceViewSpec, of_service: ServiceViewSpec | None, served: ServedDefinitions) -> PinNow:
    computed = computed_version(pin, served)
    role = None if computed is None else served.routes[pin.name].role(computed)
    now = None if of_service is None else of_service.version
    return PinNow(pin.name, pin.version, pin.features, computed, role, now)


def _reads(service: FeatureServiceSpec, asked: str) -> bool:
    """asked: "view", "view@2", "view:feature" or "view@2:feature"."""
    reference, colon, feature = asked.partition(":")
    name, version = split_reference(reference)
    return any(
        pin.name == name and version in (None, pin.version) and (not colon or feature in pin.features)
        for pin in service.views
    )


def _additions(
    found: ModelLink, given: dict[str, str | None], trained: FeatureServiceSpec | None, service: str
) -> dict[str, Any]:
    """What a link adds to an earlier one. trained: the service as it was, where that was given."""
    what = f"version {found.version} of model '{found.name}'"
    hint = "what a version of a model was made with stays: register the model as another version"
    if found.service.name != service:
        raise RegistryError(f"{what} reads feature service '{found.service.name}', not '{service}'", hint=hint)
    mark = found.training_set
    before = {"uri": found.uri, "run_id": found.run_id, "training_set_hash": mark.sha256 if mark else None}
    for column, value in before.items():
        if value is not None and given[column] not in (None, value):
            label = {"uri": "URI", "run_id": "run", "training_set_hash": "training set"}[column]
            shown = mark.manifest if mark and column == "training_set_hash" else value
            raise RegistryError(f"{what} is linked with another {label}: {shown}", hint=hint)
    added: dict[str, Any] = {
        column: given[column] for column, value in before.items() if value is None and given[column] is not None
    }
    if "training_set_hash" in added:
        added["training_set"] = given["training_set"]
    if trained is not None and reads(trained) != reads(found.service):
        if "training_set" not in added:
            raise RegistryError(f"{what} is linked with other features of service '{service}'", hint=hint)
        # The training set knows better than the service at the moment of the first link.
        text = encoded(trained)
        added |= {"service_spec": text, "service_hash": content_hash(text)}
    return added
