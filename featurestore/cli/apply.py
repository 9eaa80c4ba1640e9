"""`featurestore apply`: writes definitions to the registry."""

from typing import Annotated

import typer

from featurestore.cli.options import DataDir, Json, Modules, load_settings
from featurestore.cli.plan import (
    check_batch_sources,
    check_owners,
    plan_reach,
    resolve_modules,
    show_plan,
    tell_deprecated,
)

EXAMPLES = (
    "Examples: [bold]featurestore apply pipelines.transactions[/bold]   "
    "[bold]featurestore apply pipelines/transactions.py --promote[/bold]"
)


def apply(
    modules: Modules,
    promote: Annotated[
        bool, typer.Option("--promote", help="Serve new versions at once, not after `featurestore promote`.")
    ] = False,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Write definitions to the registry, all or nothing, and show what changed.

    A view that computes something else becomes a new version, computed beside the one that is served until it is
    promoted. The same again changes nothing; what is deployed but not in these modules is left as it is.
    """
    from featurestore.registry import Registry

    settings = load_settings(data_dir)
    resolved = resolve_modules(modules)
    check_owners(settings, resolved)
    tell_deprecated(resolved)
    check_batch_sources(resolved)
    registry = Registry.open(settings.registry_place)
    try:
        planned = registry.plan(resolved)
        reached = plan_reach(registry, planned)
        registry.apply(planned, promote=promote)
    finally:
        registry.close()
    show_plan(planned, reached, json)
