"""The registry: what is deployed. Definitions as plain data, their versions, and the plan of a change."""

from featurestore.registry.plan import Change, FieldChange, Plan
from featurestore.registry.services import RegisteredFeatureService
from featurestore.registry.store import RegisteredBatchView, RegisteredView, Registry, WatermarkReset

__all__ = [
    "Change",
    "FieldChange",
    "Plan",
    "RegisteredBatchView",
    "RegisteredFeatureService",
    "RegisteredView",
    "Registry",
    "WatermarkReset",
]
