"""`featurestore apply`: writes definitions to the registry."""

from pathlib import Path
from typing import Annotated

import typer

from featurestore.cli.git_revision import git_revision
from featurestore.cli.options import DataDir, Json, Modules, load_settings
from featurestore.cli.plan import (
    Revision,
    check_batch_sources,
    check_owners,
    resolve_modules,
    show_review,
    tell_deprecated,
    tell_similar,
)

EXAMPLES = (
    "Examples: [bold]featurestore apply pipelines.transactions[/bold]   "
    "[bold]featurestore apply pipelines/transactions.py --promote[/bold]"
)


def apply(
    modules: Modules,
    allow_breaking: Annotated[
        bool, typer.Option("--allow-breaking", help="Even what breaks what is in use; see the plan.")
    ] = False,
    promote: Annotated[
        bool, typer.Option("--promote", help="Serve new versions at once, not after `featurestore promote`.")
    ] = False,
    revision: Revision = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Write definitions to the registry, all or nothing, and show what changed.

    A view that computes something else becomes a new version, computed beside the one that is served until it is
    promoted. The same again changes nothing; what is deployed but not in these modules is left as it is.
    """
    from featurestore.registry import Registry
    from featurestore.registry.review import review

    settings = load_settings(data_dir)
    resolved = resolve_modules(modules)
    check_owners(settings, resolved)
    tell_deprecated(resolved)
    check_batch_sources(resolved)
    revision = revision or git_revision(Path.cwd(), [source.schema for source in resolved.sources.values()])
    registry = Registry.open(settings.registry_place)
    try:
        reviewed = review(registry, registry.plan(resolved), settings.registry.in_use_days)
        tell_similar(registry, reviewed.plan)
        if not allow_breaking:
            reviewed.refuse_breaking()
        registry.apply(reviewed.plan, revision=revision, promote=promote)
    finally:
        registry.close()
    show_review(reviewed, (), revision, json)
