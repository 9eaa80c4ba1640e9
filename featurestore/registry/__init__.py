"""The registry: what is deployed. Definitions as plain data, their versions, and the plan of a change."""

from featurestore.registry.plan import Change, FieldChange, Plan
from featurestore.registry.services import RegisteredFeatureService
from featurestore.registry.store import Registry, WatermarkReset
from featurestore.registry.views import RegisteredBatchView, RegisteredView, Route, ViewVersion

__all__ = [
    "Change",
    "FieldChange",
    "Plan",
    "RegisteredBatchView",
    "RegisteredFeatureService",
    "RegisteredView",
    "Registry",
    "Route",
    "ViewVersion",
    "WatermarkReset",
]
