"""`featurestore show`: everything that the registry knows of one thing."""

import sys
import textwrap
from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import DataDir, Json, open_registry
from featurestore.cli.output import WIDE, print_json, print_line, print_table
from featurestore.durations import format_duration

if TYPE_CHECKING:
    from featurestore.definitions.specs import FeatureMetadataSpec, SLOSpec
    from featurestore.registry.sheet import FeatureSheet, Reads, Sheet

EXAMPLES = (
    "Examples: [bold]featurestore show card_activity[/bold]   "
    "[bold]featurestore show card_activity:count_10m[/bold]   [bold]featurestore show transactions --json[/bold]"
)
_INDENT = 17
_SHOWN = 12


def show(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A view, view:feature, feature service, source or entity.")
    ],
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Show what the registry knows of a view, a feature, a feature service, a source or an entity.

    Of a view or feature also its versions, which one is served, and who reads it. Where several things have the name,
    the first in the order above.
    """
    from featurestore.registry.sheet import read_sheet

    registry = open_registry(data_dir)
    try:
        sheet = read_sheet(registry, name)
    finally:
        registry.close()
    if json:
        print_json(sheet)
    elif sheet.feature is not None:
        _print_feature(sheet, sheet.feature)
    else:
        _print_definition(sheet)


def _print_definition(sheet: "Sheet") -> None:
    from featurestore.registry.discovery import kind_text

    definition = sheet.definition
    print_line(f"{kind_text(definition.kind)} {definition.name}")
    _facts(_common(sheet) | _own(sheet) | _made(sheet))
    if sheet.features:
        print_line("")
        rows = [
            [one.name, one.type, _computed(one), one.metadata.unit or "", _instant(one.reads.last_read_at)]
            for one in sheet.features
        ]
        print_table(["feature", "type", "computed", "unit", "last read"], rows)
    _print_rest(sheet, sheet.reads)


def _print_feature(sheet: "Sheet", feature: "FeatureSheet") -> None:
    from featurestore.definitions.specs import ViewSpec

    print_line(f"feature {sheet.definition.name}:{feature.name}")
    common, own = _common(sheet), _own(sheet)
    common["description"] = feature.metadata.description
    spec = sheet.definition.spec
    expressions = dict(spec.derive) if isinstance(spec, ViewSpec) else {}
    facts = {
        "computed": _computed(feature),
        "derived as": expressions.get(feature.column or "", ""),
        "where": own.get("where", ""),
        "type": feature.type,
        "default": "" if feature.default is None else f"{feature.default}",
        **_told(feature.metadata),
        "columns": ", ".join(f"{one.column} ({one.role})" for one in feature.columns),
        "services": ", ".join(feature.services),
    }
    kept = {name: own[name] for name in ("join keys", "source", "ttl", "promises", "served") if name in own}
    _facts(common | facts | kept | _made(sheet))
    _print_rest(sheet, feature.reads)


def _common(sheet: "Sheet") -> dict[str, str]:
    spec = sheet.definition.spec
    tags = ", ".join(f"{name}={value}" if value else name for name, value in spec.tags.items())
    return {"description": spec.description, "owner": spec.owner, "tags": tags}


def _own(sheet: "Sheet") -> dict[str, str]:
    """What a definition of its kind has."""
    from featurestore.definitions.specs import BatchViewSpec, EntitySpec, FeatureServiceSpec, SourceSpec, ViewSpec
    from featurestore.registry.discovery import keys_text, source_name

    spec = sheet.definition.spec
    if isinstance(spec, EntitySpec):
        return {"join keys": keys_text(spec), "views": _some(sheet.used_by)}
    if isinstance(spec, FeatureServiceSpec):
        pins = (f"{view.name}@{view.version}: {', '.join(view.features)}" for view in spec.views)
        return {"reads": "; ".join(pins)}
    if isinstance(spec, SourceSpec):
        return {
            "topic": spec.topic,
            "schema": f"{spec.schema} ({spec.format})",
            "event time": spec.event_time,
            "out of order": f"up to {format_duration(spec.max_out_of_orderness_us)}",
            "lateness": f"up to {format_duration(spec.allowed_lateness_us)}",
            "columns": ", ".join(f"{column.name} {column.dtype}" for column in spec.columns),
            "views": _some(sheet.used_by),
        }
    own = {
        "join keys": keys_text(spec),
        "source": source_name(spec),
        "ttl": format_duration(spec.ttl_us) if spec.ttl_us else "",
        "criticality": spec.criticality or "",
        "promises": _slo(spec.slo),
        "served": _route(sheet),
        "services": ", ".join(sheet.services),
    }
    if isinstance(spec, ViewSpec):
        derived = "; ".join(f"{name} = {text}" for name, text in spec.derive)
        own = {"where": spec.where or "", "derived": derived} | own
        columns = {column.column for one in sheet.features for column in one.columns}
        own["columns"] = ", ".join(sorted(columns))
    else:
        assert isinstance(spec, BatchViewSpec)
    return own


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _told(metadata: "FeatureMetadataSpec") -> dict[str, str]:
    least, most = metadata.valid_range or (None, None)
    gone = metadata.deprecated
    instead = f", use {gone.replacement}" if gone is not None and gone.replacement else ""
    return {
        "unit": metadata.unit or "",
        "PII": metadata.pii or "",
        "range": "" if metadata.valid_range is None else f"{_bound(least)} to {_bound(most)}",
        "deprecated": "" if gone is None else f"since {gone.since}{instead}",
    }


def _bound(value: float | None) -> str:
    return "any" if value is None else f"{value:g}"


def _slo(slo: "SLOSpec | None") -> str:
    if slo is None:
        return ""
    parts = [
        slo.freshness_us is not None and f"fresh within {format_duration(slo.freshness_us)}",
        slo.latency_ms is not None and f"p99 of {slo.latency_ms:g} ms",
        slo.availability is not None and f"{slo.availability:.4%} of reads answered",
    ]
    return ", ".join(part for part in parts if part)


def _route(sheet: "Sheet") -> str:
    route = sheet.route
    if route is None:
        return ""
    canary = "" if route.canary is None else f", version {route.canary} to {route.canary_share:.1%} of the entities"
    return f"version {route.served}{canary}"


def _made(sheet: "Sheet") -> dict[str, str]:
    made = sheet.definition
    return {
        "created": f"{_instant(made.created_at)} by {made.created_by}",
        "updated": f"{_instant(made.applied_at)} by {made.applied_by}",
        "git revision": made.git_revision or "",
    }


def _computed(feature: "FeatureSheet") -> str:
    if feature.function is None:
        return f"column {feature.column}"
    return f"{feature.function}{f' of {feature.column}' if feature.column else ''}, {feature.window}"


def _print_rest(sheet: "Sheet", reads: "Reads | None") -> None:
    if sheet.versions:
        print_line("")
        print_table(
            ["version", "role", "created", "by", "git revision"],
            [
                [f"{one.version}", one.role, _instant(one.created_at), one.created_by, (one.git_revision or "")[:12]]
                for one in sheet.versions
            ],
        )
    if reads is None:
        return
    print_line("")
    if reads.consumers:
        rows = [[one.name, one.reads, _instant(one.last_read_at)] for one in reads.consumers]
        print_table(["consumer", "reads", "last read"], rows)
    elif reads.recorded_since is None:
        print_line("no read of any feature was recorded yet")
    else:
        print_line(f"not read since {reads.recorded_since}, when reads began to be recorded")


def _facts(facts: dict[str, str]) -> None:
    """Name and value, a line each, wrapped on a terminal; what is not said is left out."""
    from rich.console import Console

    width = Console(file=sys.stdout).width if sys.stdout.isatty() else WIDE
    for name, value in facts.items():
        if value:
            text = textwrap.fill(
                value,
                width,
                initial_indent=f"  {name}".ljust(_INDENT),
                subsequent_indent=" " * _INDENT,
                break_long_words=False,
                break_on_hyphens=False,
            )
            print_line(text)


def _instant(instant: datetime | None) -> str:
    return "" if instant is None else f"{instant:%Y-%m-%d %H:%M}"
