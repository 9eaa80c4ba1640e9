"""The definitions of a project, as far as they are right: every error is told, not only the first."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from featurestore.contracts.report import Finding, failure
from featurestore.definitions.batch import BatchFeatureView
from featurestore.definitions.discover import Definitions, load_definitions
from featurestore.definitions.governance import check_replacements
from featurestore.definitions.resolve import ResolvedDefinitions, resolve_service, resolve_source, resolve_view
from featurestore.definitions.resolve_batch import resolve_batch_view
from featurestore.definitions.source import DefinitionWarning
from featurestore.definitions.specs import BatchViewSpec, SourceSpec, ViewSpec
from featurestore.definitions.view import StreamFeatureView
from featurestore.errors import DefinitionError, FeatureStoreError, NoViewError, SourceUnavailableError

PIPELINES = "pipelines"
"""Where modules are looked for when none are named."""

Resolved = TypeVar("Resolved")


@dataclass(frozen=True)
class Project:
    """What the modules define. resolved: the right ones among the definitions. whole: the modules are all there are."""

    directory: Path
    whole: bool
    definitions: Definitions
    resolved: ResolvedDefinitions
    findings: list[Finding] = field(default_factory=list)


def gather(modules: Sequence[str], directory: Path) -> Project:
    """Import the modules, or all of the folder pipelines/, and check each definition on its own.

    A module of pipelines/ that defines no view is a helper of others; one that was named is wrong then.
    """
    whole = not modules
    findings: list[Finding] = []
    found = Definitions()
    for module in modules or _all_modules(directory):
        with _told_warnings(findings, module):
            try:
                _merge(found, load_definitions([module], directory), module, findings)
            except NoViewError as error:
                findings += [] if whole else [failure("definitions", module, error)]
            except DefinitionError as error:
                findings.append(failure("definitions", module, error))
    if not found.views and not found.batch_views and not findings:
        nothing = DefinitionError(f"there is no feature view in {PIPELINES}/", hint="name the modules that define them")
        findings.append(failure("definitions", PIPELINES, nothing))
    sources: dict[str, SourceSpec] = {}
    views: dict[str, ViewSpec] = {}
    batch: dict[str, BatchViewSpec] = {}
    for name, source in found.sources.items():
        _try(findings, f"source {name}", sources, name, lambda source=source: resolve_source(source, directory))  # type: ignore[misc]
    for name, view in found.views.items():
        # A source that is wrong has been told; its views can't be checked without its columns.
        spec = sources.get(view.source.name)
        if spec is not None:
            _try(findings, f"view {name}", views, name, lambda view=view, spec=spec: resolve_view(view, spec))  # type: ignore[misc]
    for name, batch_view in found.batch_views.items():
        _try(findings, f"view {name}", batch, name, lambda view=batch_view: resolve_batch_view(view))  # type: ignore[misc]
    right: dict[str, ViewSpec | BatchViewSpec] = {**views, **batch}
    try:
        check_replacements(right)
    except DefinitionError as error:
        findings.append(failure("definitions", "deprecated features", error))
    # A service of a view that is wrong can't be worked out; the view has been told.
    services = {
        name: resolve_service(service, right)
        for name, service in found.feature_services.items()
        if all(part.view.name in right for part in service.selections)
    }
    findings += [
        Finding("definitions", "ok", f"view {name}", f"{len(spec.features)} features")
        for name, spec in sorted(right.items())
    ]
    findings += [
        Finding("definitions", "ok", f"feature service {name}", f"{len(service.references)} features")
        for name, service in sorted(services.items())
    ]
    return Project(directory, whole, found, ResolvedDefinitions(sources, views, batch, services), findings)


def owners(project: Project) -> Iterator[Finding]:
    """Whether every view and feature service has an owner: somebody who is asked before it changes."""
    defined = project.definitions
    views: Mapping[str, StreamFeatureView | BatchFeatureView] = {**defined.views, **defined.batch_views}
    owned: dict[str, str] = {f"view {name}": view.owner for name, view in sorted(views.items())}
    owned |= {f"feature service {name}": service.owner for name, service in sorted(defined.feature_services.items())}
    for subject, owner in owned.items():
        if owner:
            yield Finding("owners", "ok", subject, owner)
        else:
            yield Finding("owners", "failed", subject, "it has no owner", 'write owner="team@example.com"')


def batch_sources(project: Project) -> Iterator[Finding]:
    """Whether batch views fit the files that they read; one that can't be reached now is told, and fails nothing."""
    from featurestore.batch.rows import check_source
    from featurestore.compile.batch import CompiledBatchView

    for name, spec in sorted(project.resolved.batch_views.items()):
        try:
            check_source(CompiledBatchView(0, 0, spec), project.directory)
        except SourceUnavailableError as error:
            message = f"it is not checked against its source: {error.message}"
            yield Finding("definitions", "warning", f"view {name}", message, error.hint)
        except FeatureStoreError as error:
            yield failure("definitions", f"view {name}", error)


def _all_modules(directory: Path) -> list[str]:
    return [str(path.relative_to(directory)) for path in sorted((directory / PIPELINES).rglob("*.py"))]


def _merge(into: Definitions, found: Definitions, module: str, findings: list[Finding]) -> None:
    """Add one module's definitions; what has another's name, and is not the same, is told and left out."""
    for kind in ("entities", "sources", "views", "batch_views", "feature_services"):
        known, more = getattr(into, kind), getattr(found, kind)
        # Stream and batch views share one set of names.
        namesakes = {**into.views, **into.batch_views} if kind in ("views", "batch_views") else known
        for name, value in more.items():
            other = namesakes.get(name)
            if other is None or other is value or (kind in ("entities", "sources") and other == value):
                known[name] = value
                continue
            what = {"entities": "entity", "sources": "source", "feature_services": "feature service"}.get(kind, "view")
            error = DefinitionError(f"{what} '{name}' is defined twice, differently", hint="give each its own name")
            findings.append(failure("definitions", module, error))


def _try(
    findings: list[Finding], subject: str, into: dict[str, Resolved], name: str, make: Callable[[], Resolved]
) -> None:
    try:
        into[name] = make()
    except FeatureStoreError as error:
        findings.append(failure("definitions", subject, error))


@contextmanager
def _told_warnings(findings: list[Finding], module: str) -> Iterator[None]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DefinitionWarning)
        yield
    for warning in caught:
        if issubclass(warning.category, DefinitionWarning):
            findings.append(Finding("definitions", "warning", module, str(warning.message)))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)
