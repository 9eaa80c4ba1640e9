"""Feature services and models in the lineage graph: what reads the features of the views."""

from __future__ import annotations

from collections.abc import Iterable

from featurestore.definitions.specs import FeatureServiceSpec, ServiceViewSpec, ViewSpec
from featurestore.registry.database import Database
from featurestore.registry.lineage import Lineage, Node, add_batch_view, add_view, build_lineage
from featurestore.registry.models import ModelLink, Models, computed_version, reads
from featurestore.registry.served import ServedBatchView, ServedDefinitions, ServedView, read_served


def deployed_lineage(database: Database) -> Lineage:
    """The graph of all that is deployed, from topics to models.

    A view stands for the version that is served; another version that a service or model reads is there as "view@2".
    """
    return lineage_of(read_served(database), Models(database).find())


def lineage_of(served: ServedDefinitions, links: Iterable[ModelLink]) -> Lineage:
    """The graph of what can be read and of the models that read it."""
    views = [view.spec for view in served.views if _is_served(served, view.spec.name, view.version)]
    batch_views = [view.spec for view in served.batch_views if _is_served(served, view.spec.name, view.version)]
    sources = {view.source: served.sources[view.source] for view in (one.spec for one in served.views)}
    lineage = build_lineage(sources, views, batch_views)
    for service in served.services.values():
        _add_reads(lineage, served, service, Node("service", service.name))
    for link in links:
        model = Node("model", link.reference)
        lineage.add(Node("service", link.service.name), model)
        deployed = served.services.get(link.service.name)
        if deployed is None or reads(deployed) != reads(link.service):
            # The service has moved on; the model was made with what it read then.
            _add_reads(lineage, served, link.service, model, "as linked")
    return lineage


def _add_reads(
    lineage: Lineage, served: ServedDefinitions, service: FeatureServiceSpec, reader: Node, role: str = ""
) -> None:
    for pin in service.views:
        label = _label(lineage, served, pin)
        for feature in pin.features:
            lineage.add(Node("feature", f"{label}:{feature}"), reader, role)


def _label(lineage: Lineage, served: ServedDefinitions, pin: ServiceViewSpec) -> str:
    """The name of the version that a pin is read from; that version is in the graph afterwards, if it is computed."""
    version = computed_version(pin, served)
    if version is not None and _is_served(served, pin.name, version):
        return pin.name
    label = f"{pin.name}@{pin.version if version is None else version}"
    if version is not None and Node("view", label) not in lineage.inputs:
        every: tuple[ServedView | ServedBatchView, ...] = (*served.views, *served.batch_views)
        for view in every:
            if (view.spec.name, view.version) != (pin.name, version):
                continue
            if isinstance(view.spec, ViewSpec):
                add_view(lineage, view.spec, served.sources[view.spec.source], label)
            else:
                add_batch_view(lineage, view.spec, label)
    return label


def _is_served(served: ServedDefinitions, view: str, version: int) -> bool:
    return served.routes[view].served == version
