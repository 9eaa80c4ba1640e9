"""Verifies contracts: what views are (types), what they make of a file of events, and golden values."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import polars as pl

from featurestore.compile.bind import bind_view
from featurestore.compile.view import compile_view
from featurestore.contracts.files import LoadedContract
from featurestore.contracts.gather import Project
from featurestore.contracts.golden import GoldenView
from featurestore.contracts.models import Example, SourceContract, ViewContract
from featurestore.contracts.promises import broken_dtype, broken_promises, same_value
from featurestore.contracts.report import Finding, failure
from featurestore.definitions.names import nearest
from featurestore.definitions.specs import ViewSpec
from featurestore.durations import format_instant, parse_instant_us
from featurestore.errors import ContractError, FeatureStoreError
from featurestore.sources.event_file import read_event_file


def verify_contracts(project: Project, contracts: Sequence[LoadedContract]) -> Iterator[Finding]:
    """Every contract's findings; each that holds has one, too."""
    for loaded in contracts:
        contract = loaded.contract
        subject = subject_of(loaded)
        try:
            if isinstance(contract, ViewContract):
                found = list(_view(project, loaded, contract, subject))
            else:
                found = list(_source(project, loaded, contract))
        except FeatureStoreError as error:
            found = [failure("contracts", subject, error)]
        yield from found or [Finding("contracts", "ok", subject, _told(contract))]


def subject_of(loaded: LoadedContract) -> str:
    """How a contract is called in the report."""
    contract = loaded.contract
    name = contract.view if isinstance(contract, ViewContract) else contract.source
    return f"{loaded.shown_as}: {name}"


def _told(contract: ViewContract | SourceContract) -> str:
    if isinstance(contract, SourceContract):
        return f"{len(contract.columns)} columns; held to by --sample"
    parts = [f"{len(contract.features)} features"]
    if contract.events is not None:
        parts.append(f"on {contract.events}, {len(contract.examples)} examples")
    return ", ".join(parts)


def view_is_there(project: Project, name: str) -> None:
    """Raise ContractError when the modules define no such view, naming the nearest."""
    known = {*project.definitions.views, *project.definitions.batch_views}
    if name not in known:
        raise ContractError(f"no module defines a view '{name}'", hint=nearest(name, sorted(known)))


def _view(project: Project, loaded: LoadedContract, contract: ViewContract, subject: str) -> Iterator[Finding]:
    view_is_there(project, contract.view)
    spec = project.resolved.views.get(contract.view) or project.resolved.batch_views.get(contract.view)
    if spec is None:
        yield Finding("contracts", "skipped", subject, f"view '{contract.view}' has errors, see definitions")
        return
    dtypes = {feature.name: feature.output_dtype for feature in spec.features}
    for name in dict.fromkeys(
        [*contract.features, *(name for example in contract.examples for name in example.values)]
    ):
        if name not in dtypes:
            raise ContractError(f"view '{contract.view}' has no feature '{name}'", hint=nearest(name, dtypes))
    for name, promised in contract.features.items():
        wrong = broken_dtype(promised, dtypes[name])
        if wrong:
            yield Finding("contracts", "failed", f"{subject}:{name}", wrong)
        elif (promised.min is not None or promised.max is not None) and dtypes[name] not in ("Int64", "Float64"):
            yield Finding(
                "contracts", "failed", f"{subject}:{name}", f"it is {dtypes[name]}: min and max are for numbers"
            )
    if contract.events is None:
        return
    if not isinstance(spec, ViewSpec):
        raise ContractError("`events` are for stream views", hint="a batch view's rows are in its source")
    yield from _golden(project, loaded, contract, spec, subject)


def _golden(
    project: Project, loaded: LoadedContract, contract: ViewContract, spec: ViewSpec, subject: str
) -> Iterator[Finding]:
    assert contract.events is not None
    source = project.resolved.sources[spec.source]
    events = read_event_file(source, project.directory, loaded.path.parent / contract.events)
    for reason, number in events.dead.items():
        place, error = events.first_dead[reason]
        message = (
            f"{contract.events}: {number} events are dead letters ({reason}), the first is number {place + 1}: {error}"
        )
        yield Finding("contracts", "failed", subject, message, "mend the file: it stands for good events")
    if events.late:
        yield Finding("contracts", "warning", subject, f"{contract.events}: {events.late} events are too late to count")
    if events.accepted.is_empty():
        raise ContractError(f"{contract.events} has no event that counts")
    golden = GoldenView(bind_view(compile_view(spec, source, view_id=0, version=1)), events)
    values = golden.newest_values()
    for name, promised in contract.features.items():
        if values[name].dtype.is_numeric() or (promised.min is None and promised.max is None):
            for broken in broken_promises(promised, values[name]):
                yield Finding("contracts", "failed", f"{subject}:{name}", f"on {contract.events}: {broken}")
    for number, example in enumerate(contract.examples, start=1):
        yield from _example(golden, spec, example, f"{subject}, example {number}")


def _example(golden: GoldenView, spec: ViewSpec, example: Example, subject: str) -> Iterator[Finding]:
    keys = {key.name for key in spec.join_keys}
    if keys != set(example.entity):
        raise ContractError(f"{subject}: the entity has {', '.join(example.entity)}", hint=f"give {', '.join(keys)}")
    as_of_us = golden.newest_us + 1 if example.as_of is None else parse_instant_us(example.as_of)
    row: pl.DataFrame = golden.values([golden.encoded(example.entity)], [as_of_us])
    for name, expected in example.values.items():
        got = row[name][0]
        if not same_value(expected, got):
            entity = ", ".join(f"{key}={value}" for key, value in example.entity.items())
            message = f"{name} of {entity} at {format_instant(as_of_us)} is {got!r}, expected {expected!r}"
            yield Finding("contracts", "failed", subject, message)


def _source(project: Project, loaded: LoadedContract, contract: SourceContract) -> Iterator[Finding]:
    if contract.source not in project.definitions.sources:
        known = sorted(project.definitions.sources)
        raise ContractError(f"no module defines a source '{contract.source}'", hint=nearest(contract.source, known))
    source = project.resolved.sources.get(contract.source)
    if source is None:
        yield Finding("contracts", "skipped", subject_of(loaded), f"source '{contract.source}' has errors")
        return
    columns = [column.name for column in source.columns]
    for name in contract.columns:
        if name not in columns:
            raise ContractError(f"source '{contract.source}' has no column '{name}'", hint=nearest(name, columns))
