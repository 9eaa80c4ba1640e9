"""The views that `featurestore offline verify` compares, by the definitions that are applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from featurestore.cli.status_report import compile_registered
from featurestore.cli.verify_files import check_files
from featurestore.cli.verify_view import Verified, ViewVerifier
from featurestore.compile.bind import bind_view
from featurestore.config import Settings
from featurestore.definitions.specs import SourceSpec
from featurestore.online.source_store import read_store_info
from featurestore.registry import RegisteredView, Registry


def verify_views(
    settings: Settings,
    names: Sequence[str],
    sample: int | None,
    on_progress: Callable[[str, float], None],
) -> list[Verified]:
    """Compare the named views, or all; views that have never run are left out.

    Raises UnknownViewError, StoreFormatError naming what is damaged, and what `ViewVerifier.verify` raises.
    """
    data_dir = settings.store.data_dir
    registry = Registry.open(settings.registry_place, create=False)
    try:
        registered = [registry.view(name) for name in names] or registry.views()
        sources = {view.spec.source: registry.source(view.spec.source) for view in registered}
    finally:
        registry.close()
    check_files(data_dir, registered, whole=sample is None)
    return [
        verify_version(data_dir, view, sources[view.spec.source], sample, on_progress)
        for view in registered
        if read_store_info(data_dir, view.spec.source) is not None
    ]


def verify_version(
    data_dir: Path,
    view: RegisteredView,
    source: SourceSpec,
    sample: int | None,
    on_progress: Callable[[str, float], None],
) -> Verified:
    """Compare one version of a view. Raises what `ViewVerifier.verify` raises."""
    verifier = ViewVerifier(
        data_dir,
        bind_view(compile_registered(view, source)),
        source,
        view.applied_at,
        sample=sample,
        on_progress=lambda share: on_progress(view.spec.name, share),
    )
    return verifier.verify()
