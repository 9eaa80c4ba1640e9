"""The registry: what is deployed. Definitions as plain data, their versions, and the plan of a change."""

from featurestore.registry.database import registry_file
from featurestore.registry.plan import Change, FieldChange, Plan
from featurestore.registry.services import RegisteredFeatureService
from featurestore.registry.store import Registry, WatermarkReset
from featurestore.registry.versions import split_reference
from featurestore.registry.views import AnyView, RegisteredBatchView, RegisteredView, Role, Route, ViewVersion

__all__ = [
    "AnyView",
    "Change",
    "FieldChange",
    "Plan",
    "RegisteredBatchView",
    "RegisteredFeatureService",
    "RegisteredView",
    "Registry",
    "Role",
    "Route",
    "ViewVersion",
    "WatermarkReset",
    "registry_file",
    "split_reference",
]
