"""Lineage for catalogs: OpenLineage events of jobs, with their datasets and the columns that each feature reads."""

from featurestore.lineage_events.emitter import LineageRun, lineage_of

__all__ = ["LineageRun", "lineage_of"]
