"""The views that `featurestore offline verify` compares: as modules define them, which must be what is applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from difflib import get_close_matches
from pathlib import Path

from featurestore.cli.status_report import compile_registered
from featurestore.cli.verify_view import Verified, ViewVerifier
from featurestore.compile.bind import BoundView
from featurestore.config import Settings
from featurestore.definitions.discover import load_definitions
from featurestore.definitions.resolve import resolve_all
from featurestore.errors import PlanRequiredError, UnknownViewError
from featurestore.online.source_store import read_store_info
from featurestore.registry import Registry


def verify_views(
    settings: Settings,
    modules: Sequence[str],
    names: Sequence[str],
    sample: int | None,
    on_progress: Callable[[str, float], None],
) -> list[Verified]:
    """Compare the modules' views, or those of them that are named; views that have never run are left out.

    Raises PlanRequiredError when the definitions differ from what is applied, UnknownViewError for a name that the
    modules do not define, and what `ViewVerifier.verify` raises.
    """
    directory, data_dir = Path.cwd(), settings.store.data_dir
    definitions = load_definitions(modules, directory)
    resolved = resolve_all(definitions, directory)
    for name in names:
        if name not in resolved.views:
            near = get_close_matches(name, resolved.views, n=3) or sorted(resolved.views)
            raise UnknownViewError(f"these modules define no view '{name}'", hint=f"they define {', '.join(near)}")
    registry = Registry.open(data_dir / "registry" / "registry.db", create=False)
    try:
        plan = registry.plan(resolved)
        if plan.has_changes:
            raise PlanRequiredError(
                f"the definitions differ from what is applied, and from what is stored:\n{plan.render()}",
                hint="verify with the modules that were applied",
            )
        registered = [registry.view(name) for name in names or sorted(resolved.views)]
        sources = {view.spec.source: registry.source(view.spec.source) for view in registered}
    finally:
        registry.close()
    verified = []
    for view in registered:
        name, source = view.spec.name, sources[view.spec.source]
        if read_store_info(data_dir, source.name) is None:
            continue
        author = definitions.views[name]
        bound = BoundView(compile_registered(view, source), author.where, author.derive or {})
        verifier = ViewVerifier(
            data_dir,
            bound,
            source,
            view.applied_at,
            sample=sample,
            on_progress=lambda share, name=name: on_progress(name, share),  # type: ignore[misc]
        )
        verified.append(verifier.verify())
    return verified
