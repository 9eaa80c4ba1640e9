"""`featurestore compare`: two versions of a view, feature by feature, and whether the new one may be promoted."""

from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import DataDir, Json, load_settings
from featurestore.cli.output import format_bytes, print_json, print_line, print_note, print_table

if TYPE_CHECKING:
    from featurestore.cli.version_comparison import VersionComparison, VersionProgress
    from featurestore.cli.version_verdict import Verdict

EXAMPLES = (
    "Examples: [bold]featurestore compare card_activity@2[/bold]   "
    "[bold]featurestore compare card_activity@1 card_activity@2 --all --json[/bold]   "
    "[bold]featurestore compare card_activity@2 && featurestore promote card_activity@2[/bold]"
)


def compare(
    version: Annotated[
        str, typer.Argument(metavar="VIEW@N", help="The new version; the old one, when a second is named.")
    ],
    other: Annotated[
        str | None,
        typer.Argument(metavar="[VIEW@M]", help="The new version; without, VIEW@N against the served one."),
    ] = None,
    sample: Annotated[
        int, typer.Option("--sample", min=1, help="So many entities, by hash: the same each time.")
    ] = 10_000,
    every: Annotated[bool, typer.Option("--all", help="Every entity.")] = False,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="TIME",
            help="Read as of this ISO 8601 instant; else just after the newest event that both have seen, of a batch "
            "view after the newest row of either.",
            show_default=False,
        ),
    ] = None,
    max_behind: Annotated[
        str, typer.Option(metavar="DURATION", help="Event time that the new version may be behind.")
    ] = "1m",
    max_psi: Annotated[
        float, typer.Option(min=0.0, help="Population stability index above which a feature is to be looked at.")
    ] = 0.2,
    max_null_rise: Annotated[float, typer.Option(min=0.0, help="Part of the rows that may become null.")] = 0.01,
    max_not_found_rise: Annotated[
        float, typer.Option(min=0.0, help="Part of the rows that may become NOT_FOUND.")
    ] = 0.01,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Compare two versions of a view, stream or batch, by the values that readers get of both as of one instant.

    PSI, the population stability index of a feature's values, is held against a rule of thumb of credit scoring (Lewis
    1994): below 0.1 little has changed, above 0.25 much. KS is the Kolmogorov–Smirnov statistic.
    Exits with 0 when the verdict is "promote", with 1 when it is "look first" or "not ready".
    """
    from featurestore.cli.version_comparison import compare_versions, find_versions
    from featurestore.cli.version_verdict import Thresholds, judge
    from featurestore.durations import parse_duration_us, parse_instant_us
    from featurestore.registry import Registry

    thresholds = Thresholds(parse_duration_us(max_behind), max_psi, max_null_rise, max_not_found_rise)
    as_of_us = None if as_of is None else parse_instant_us(as_of)
    settings = load_settings(data_dir)
    registry = Registry.open(settings.registry_place, create=False)
    try:
        old, new = find_versions(registry, version, other)
        found = compare_versions(
            settings.store.data_dir, registry, old, new, sample=None if every else sample, as_of_us=as_of_us
        )
    finally:
        registry.close()
    verdict = judge(found, thresholds)
    if json:
        print_json({"verdict": verdict, "thresholds": thresholds, "comparison": found})
    else:
        _show(found, verdict)
    if verdict.answer != "promote":
        raise typer.Exit(1)


def _show(found: "VersionComparison", verdict: "Verdict") -> None:
    old, new = found.old, found.new
    times = (
        ("newest row", "materialized until", "stored") if found.is_batch else ("newest event", "watermark", "events")
    )
    print_table(
        ["version", *times, "applied", "rows", "online", "offline"],
        [_progress_row(side) for side in (old, new)],
    )
    print_line("")
    if found.features:
        columns = [
            "feature",
            "equal",
            "PSI",
            "KS",
            f"mean @{old.version}",
            f"mean @{new.version}",
            f"p50 @{old.version}",
            f"p50 @{new.version}",
            "mean difference",
            f"null @{old.version}",
            f"null @{new.version}",
            f"not found @{old.version}",
            f"not found @{new.version}",
        ]
        print_table(
            columns,
            [
                [
                    one.feature,
                    f"{one.equal_share:.2%}",
                    _number(one.psi),
                    _number(one.ks),
                    _number(one.old.mean),
                    _number(one.new.mean),
                    _number(one.old.quantiles.get("p50")),
                    _number(one.new.quantiles.get("p50")),
                    _number(one.mean_absolute_difference),
                    *(f"{rate:.2%}" for rate in (one.old.null_rate, one.new.null_rate)),
                    *(f"{rate:.2%}" for rate in (one.old.not_found_rate, one.new.not_found_rate)),
                ]
                for one in found.features
            ],
        )
        print_line("")
    for one in found.features:
        for change in one.top_changes:
            print_note(f"{one.feature}: {change.old!r} became {change.new!r} in {change.rows:,} rows")
    for version, names in ((old.version, found.removed_features), (new.version, found.added_features)):
        if names:
            print_note(f"only in version {version}: {', '.join(names)}")
    if found.as_of is not None:
        print_note(
            f"{found.sampled:,} of {found.both + found.only_old + found.only_new:,} entities, as of {found.as_of}; "
            f"known to version {old.version} only: {found.only_old:,}, to {new.version} only: {found.only_new:,}"
        )
    if found.behind_events:
        print_note(f"version {new.version} is behind by {found.behind_events:,} messages")
    for note in found.notes:
        print_note(note)
    freed = format_bytes(old.online_bytes + old.offline_bytes)
    print_note(f"retiring version {old.version} and `featurestore view purge` would free {freed}")
    print_line(f"{verdict.answer}: {found.view}@{new.version}")
    for reason in verdict.reasons:
        print_note(reason)


def _progress_row(side: "VersionProgress") -> list[object]:
    return [
        f"{side.version}",
        side.newest_event,
        side.watermark,
        side.events,
        side.applied,
        side.rows,
        format_bytes(side.online_bytes),
        format_bytes(side.offline_bytes),
    ]


def _number(value: float | None) -> str | None:
    return None if value is None else f"{value:.4g}"
