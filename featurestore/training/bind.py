"""Registered views with their authors' expressions, which only the pipeline modules hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from featurestore.compile.bind import BoundView
from featurestore.compile.view import compile_view
from featurestore.definitions.discover import Definitions, load_definitions
from featurestore.definitions.resolve import fingerprint, resolve_all
from featurestore.definitions.specs import SourceSpec
from featurestore.errors import DefinitionError, PlanRequiredError
from featurestore.registry import RegisteredView

PIPELINES = "pipelines"
"""Where modules are looked for when none are named."""


def bind_views(
    views: Sequence[RegisteredView], sources: Mapping[str, SourceSpec], directory: Path, modules: Sequence[str]
) -> dict[str, BoundView]:
    """Views by name, ready to be computed.

    directory: of the project, which modules are importable from. modules: that define the views with a `where` or a
    `derive`; none: those of the folder pipelines/. Raises DefinitionError when no module defines such a view, and
    PlanRequiredError when one defines it otherwise than it was applied.
    """
    bound = {}
    for view in views:
        spec = view.spec
        compiled = compile_view(spec, sources[spec.source], view_id=view.view_id, version=view.version)
        if spec.where is None and not spec.derive:
            bound[spec.name] = BoundView(compiled)
            continue
        definitions = _definitions_of(spec.name, directory, modules)
        if fingerprint(resolve_all(definitions, directory).views[spec.name]) != view.fingerprint:
            raise PlanRequiredError(
                f"view '{spec.name}' is defined otherwise than version {view.version}, which is applied",
                hint="apply it (featurestore plan shows the difference), or check out the revision that was applied",
            )
        author = definitions.views[spec.name]
        bound[spec.name] = BoundView(compiled, author.where, author.derive or {})
    return bound


def _definitions_of(view: str, directory: Path, modules: Sequence[str]) -> Definitions:
    named = list(modules) or [
        str(path.relative_to(directory)) for path in sorted((directory / PIPELINES).rglob("*.py"))
    ]
    failed: list[str] = []
    for module in named:
        try:
            definitions = load_definitions([module], directory)
        except DefinitionError as error:
            # Another module that can't be loaded matters only when none has the view.
            failed.append(f"{module}: {error.message}")
            continue
        if view in definitions.views:
            return definitions
    looked = f"{', '.join(named) or f'{PIPELINES}/ has none'}"
    raise DefinitionError(
        f"no module defines view '{view}', whose expressions are needed; looked in {looked}"
        + "".join(f"\n  {reason}" for reason in failed),
        hint="name its module: --module, or modules=[…] in Python",
    )
