"""Specs of batch views. What their source holds is looked at by `featurestore.batch`: here nothing is read."""

from __future__ import annotations

from featurestore.definitions.batch import BatchFeatureView, FileSource
from featurestore.definitions.names import duration_us
from featurestore.definitions.specs import BatchViewSpec, FieldSpec, FileSourceSpec, SQLSourceSpec


def resolve_batch_view(view: BatchFeatureView) -> BatchViewSpec:
    """A batch view as plain data."""
    source = view.source
    return BatchViewSpec(
        name=view.name,
        source=(
            FileSourceSpec(
                path=source.path,
                format=source.format or "",
                event_time=source.event_time,
                created_time=source.created_time,
            )
            if isinstance(source, FileSource)
            else SQLSourceSpec(
                url=source.url,
                query=source.query,
                event_time=source.event_time,
                created_time=source.created_time,
            )
        ),
        entities=tuple(entity.spec for entity in view.entities),
        features=tuple(
            FieldSpec(
                name=field.name,
                output_dtype=field.output_dtype,
                default=float(field.default)
                if field.output_dtype == "Float64" and field.default is not None
                else field.default,
                metadata=field.metadata,
            )
            for field in view.features
        ),
        ttl_us=0 if view.ttl is None else duration_us(view.ttl, f"view '{view.name}': ttl"),
        owner=view.owner,
        description=view.description,
        tags=dict(view.tags),
        criticality=view.criticality,
        slo=None if view.slo is None else view.slo.spec,
    )
