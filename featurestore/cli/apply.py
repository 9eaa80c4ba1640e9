"""`featurestore apply`: writes definitions to the registry."""

from featurestore.cli.options import DataDir, Json, Modules, load_settings
from featurestore.cli.plan import (
    check_batch_sources,
    check_owners,
    plan_reach,
    registry_path,
    resolve_modules,
    show_plan,
    tell_deprecated,
)

EXAMPLES = "Example: [bold]featurestore apply pipelines.transactions[/bold]"


def apply(modules: Modules, data_dir: DataDir = None, json: Json = False) -> None:
    """Write definitions to the registry, all or nothing, and show what changed.

    The same again changes nothing; what is deployed but not in these modules is left as it is.
    """
    from featurestore.registry import Registry

    settings = load_settings(data_dir)
    resolved = resolve_modules(modules)
    check_owners(settings, resolved)
    tell_deprecated(resolved)
    check_batch_sources(resolved)
    registry = Registry.open(registry_path(settings))
    try:
        planned = registry.plan(resolved)
        reached = plan_reach(registry, planned)
        registry.apply(planned)
    finally:
        registry.close()
    show_plan(planned, reached, json)
