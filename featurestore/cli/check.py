"""`featurestore check`: definitions, schemas and contracts, for continuous integration."""

from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featurestore.cli.options import DataDir, Json, load_settings
from featurestore.cli.output import print_json, print_line, print_table

if TYPE_CHECKING:
    from featurestore.contracts.report import Report

EXAMPLES = (
    "Examples: [bold]featurestore check[/bold]   "
    "[bold]featurestore check --against origin/main --sample transactions=sample.jsonl[/bold]   "
    "[bold]featurestore check pipelines.transactions --against registry --live --json[/bold]"
)


def check(
    modules: Annotated[
        list[str] | None,
        typer.Argument(metavar="[MODULE]…", help="Definitions, as dotted modules or paths; else all of pipelines/."),
    ] = None,
    against: Annotated[
        str | None,
        typer.Option(
            metavar="REVISION|registry",
            help="Compare with a git revision, or with what is applied; else with the registry, if there is one.",
            show_default=False,
        ),
    ] = None,
    sample: Annotated[
        list[str] | None,
        typer.Option(
            metavar="\\[SOURCE=]FILE", help="Events to decode: JSON lines, Parquet or Avro; repeat it for more."
        ),
    ] = None,
    contract: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="A contract file; repeat it for more. Else all of contracts/."),
    ] = None,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME", help="A breaking change that is meant: VIEW, VIEW:FEATURE or SOURCE.FIELD; only a warning."
        ),
    ] = None,
    require_owner: Annotated[bool, typer.Option(help="Whether a view without an owner fails.")] = True,
    live: Annotated[
        bool, typer.Option("--live", help="Hold the offline store's newest snapshots to contracts.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Check definitions, owners, schemas, features, samples and contracts; one report, exit code 1 if anything fails.

    Needs no broker. Schemas must be compatible with what they were, by each source's compatibility (backward, forward
    or full); features must not vanish or change type; contracts in contracts/ must hold. Writes nothing.
    """
    from featurestore.contracts.check import CheckRequest
    from featurestore.contracts.check import check as run_check

    settings = load_settings(data_dir)
    report = run_check(
        CheckRequest(
            tuple(modules or ()),
            Path.cwd(),
            settings.store.data_dir,
            settings.registry_place,
            against,
            tuple(sample or ()),
            tuple(contract or ()),
            tuple(accept or ()),
            require_owner,
            live,
        )
    )
    if json:
        print_json({"failed": report.failed, "findings": report.findings})
    else:
        _print(report)
    if report.failed:
        raise typer.Exit(1)


def _print(report: "Report") -> None:
    for section, findings in groupby(report.findings, key=lambda finding: finding.section):
        rows = [
            (one.level, one.subject, one.message if one.hint is None else f"{one.message} ({one.hint})")
            for one in findings
        ]
        print_table((section, "", ""), rows)
        print_line("")
    levels = [finding.level for finding in report.findings]
    warnings = levels.count("warning")
    print_line(
        f"{levels.count('ok')} ok, {warnings} warnings, {levels.count('skipped')} skipped, {report.failed} failed"
    )
