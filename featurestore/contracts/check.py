"""The whole check: definitions, owners, schemas, features, samples, contracts, live data; one report."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from featurestore.contracts.baseline import find_baseline
from featurestore.contracts.evolution import feature_changes, schema_changes
from featurestore.contracts.files import LoadedContract, contract_files, load_contracts
from featurestore.contracts.gather import batch_sources, gather, owners
from featurestore.contracts.live import verify_live
from featurestore.contracts.models import SourceContract, ViewContract
from featurestore.contracts.report import Finding, Report, failure
from featurestore.contracts.samples import check_samples
from featurestore.contracts.verify import verify_contracts
from featurestore.errors import FeatureStoreError


@dataclass(frozen=True)
class CheckRequest:
    """What to check.

    modules: none for all of pipelines/. against: "registry", a git revision, or None: the registry where there is one.
    samples: "FILE" or "SOURCE=FILE". contracts: files; none for all of contracts/. accepted: breaking changes that are
    meant, "view", "view:feature" or "source.field".
    """

    modules: tuple[str, ...]
    directory: Path
    data_dir: Path
    registry_place: Path | str
    against: str | None = None
    samples: tuple[str, ...] = ()
    contracts: tuple[Path, ...] = ()
    accepted: tuple[str, ...] = ()
    require_owner: bool = True
    live: bool = False


def check(request: CheckRequest) -> Report:
    """Check it all; what is wrong is in the report, and stops nothing else."""
    project = gather(request.modules, request.directory)
    findings = [*project.findings, *batch_sources(project)]
    if request.require_owner:
        findings += owners(project)
    try:
        baseline = find_baseline(request.against, request.registry_place, request.modules, request.directory)
    except FeatureStoreError as error:
        findings.append(failure("schemas", request.against or "registry", error))
    else:
        if baseline is None:
            message = "nothing to compare with: nothing was applied yet"
            findings.append(Finding("schemas", "skipped", "all", message, "--against GIT_REVISION"))
        else:
            findings += schema_changes(project, baseline, request.accepted)
            findings += feature_changes(project, baseline, accepted=request.accepted)
    contracts, wrong = _contracts(request)
    if not request.modules:
        about = contracts
    else:
        # With some modules named, contracts of what the others define are not theirs.
        names = {*project.definitions.views, *project.definitions.batch_views, *project.definitions.sources}
        about = [one for one in contracts if request.contracts or _name(one) in names]
    sources = [one.contract for one in about if isinstance(one.contract, SourceContract)]
    findings += check_samples(project, request.samples, sources)
    findings += wrong
    findings += verify_contracts(project, about)
    if request.live:
        try:
            findings += verify_live(request.data_dir, request.registry_place, about)
        except FeatureStoreError as error:
            findings.append(failure("live", str(request.data_dir), error))
    return Report(findings)


def _contracts(request: CheckRequest) -> tuple[list[LoadedContract], list[Finding]]:
    """The contracts, and the files that hold none."""
    loaded: list[LoadedContract] = []
    wrong: list[Finding] = []
    for path in request.contracts or contract_files(request.directory):
        full = request.directory / path
        shown_as = str(full.relative_to(request.directory)) if full.is_relative_to(request.directory) else str(path)
        try:
            loaded += load_contracts(full, shown_as)
        except FeatureStoreError as error:
            wrong.append(failure("contracts", shown_as, error))
    return loaded, wrong


def _name(loaded: LoadedContract) -> str:
    contract = loaded.contract
    return contract.view if isinstance(contract, ViewContract) else contract.source
