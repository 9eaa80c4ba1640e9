"""`featurestore model`: which feature service, and so which features, each version of a model reads."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featurestore.cli.options import DataDir, Json, open_registry
from featurestore.cli.output import print_json, print_line, print_note, print_table, warn

if TYPE_CHECKING:
    from featurestore.registry.models import ModelLink, ModelNow, PinNow

LINK_EXAMPLES = (
    "Examples: [bold]featurestore model link fraud 3 --service fraud_v3[/bold]   "
    "[bold]featurestore model link fraud 3 --service fraud_v3 --uri models:/fraud/3 "
    "--training-set training.parquet.manifest.json[/bold]"
)
LS_EXAMPLES = (
    "Examples: [bold]featurestore model ls[/bold]   "
    "[bold]featurestore model ls --service fraud_v3[/bold]   "
    "[bold]featurestore model ls --view card_activity@1[/bold]   "
    "[bold]featurestore model ls --feature card_activity:count_10m --json[/bold]"
)
SHOW_EXAMPLES = (
    "Examples: [bold]featurestore model show fraud 3[/bold]   [bold]featurestore model show fraud 3 --json[/bold]"
)

app = typer.Typer(
    help="Which feature service and which features a version of a model reads.",
    no_args_is_help=True,
)

Name = Annotated[str, typer.Argument(metavar="NAME", help="Of the model.")]
Version = Annotated[str, typer.Argument(metavar="VERSION", help="Of the model, as its registry numbers it.")]


@app.command("link", epilog=LINK_EXAMPLES)
def link(
    name: Name,
    version: Version,
    service: Annotated[str, typer.Option("--service", help="The feature service that it reads.")],
    uri: Annotated[str | None, typer.Option("--uri", help="Where the model lies.", show_default=False)] = None,
    training_set: Annotated[
        Path | None,
        typer.Option(
            "--training-set", metavar="MANIFEST", help="The manifest of its training set.", show_default=False
        ),
    ] = None,
    run_id: Annotated[str | None, typer.Option("--run-id", help="Its MLflow run.", show_default=False)] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Write down that a version of a model reads a feature service: its features, and the versions that it pins.

    With a training set these are the versions that the set was made with. The same link again changes nothing; one that
    contradicts it is refused, for what a model was made with does not change.
    """
    from featurestore.registry.models import Models, model_now
    from featurestore.registry.served import read_served
    from featurestore.registry.services import find_service
    from featurestore.training.trained_with import trained_with

    registry = open_registry(data_dir)
    try:
        deployed = {one: found.spec for one, found in registry.feature_services().items()}
        spec = find_service(deployed, service)
        made = None if training_set is None else trained_with(training_set, spec)
        linked = Models(registry.database).link(
            name,
            version,
            service if made is None else made.service,
            uri=uri,
            training_set=None if made is None else made.mark,
            run_id=run_id,
        )
        now = model_now(linked, read_served(registry.database))
    finally:
        registry.close()
    if now.service != "same":
        warn(f"feature service {service} gives other values by now: see featurestore model show {name} {version}")
    if json:
        print_json(_document(linked))
    else:
        count = len(linked.service.references)
        print_line(f"model {name} version {version} reads {count} features of {service}: {_views(linked)}")


@app.command("ls", epilog=LS_EXAMPLES)
def ls(
    service: Annotated[
        str | None, typer.Option("--service", help="Only those that read this feature service.", show_default=False)
    ] = None,
    view: Annotated[
        str | None,
        typer.Option(metavar="VIEW[@N]", help="Only those that read this view, or version of it.", show_default=False),
    ] = None,
    feature: Annotated[
        str | None, typer.Option(metavar="VIEW:FEATURE", help="Only those that read it.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """List the versions of models that are linked, with what they read."""
    from featurestore.errors import ConfigError
    from featurestore.registry.models import Models

    if feature is not None and ":" not in feature:
        raise ConfigError(f"--feature {feature}: of which view?", hint=f"write it VIEW:{feature}")
    registry = open_registry(data_dir)
    try:
        found = Models(registry.database).find(service=service, view=view, feature=feature)
    finally:
        registry.close()
    if json:
        print_json({"models": [_document(one) for one in found]})
        return
    rows = [[one.name, one.version, one.service.name, _views(one, " "), f"{one.linked_at:%Y-%m-%d}"] for one in found]
    if rows:
        print_table(["model", "version", "service", "views", "linked"], rows, key_columns=2)
    else:
        print_line("no model is linked that reads it" if service or view or feature else "no model is linked yet")


@app.command("show", epilog=SHOW_EXAMPLES)
def show(name: Name, version: Version, data_dir: DataDir = None, json: Json = False) -> None:
    """Show what a version of a model was made with: its features with versions, its training set, its run.

    And how to read these features now: whether the service gives them still, and whether their versions are computed.
    """
    from featurestore.registry.models import Models, model_now
    from featurestore.registry.served import read_served
    from featurestore.training.trained_with import manifest_state

    registry = open_registry(data_dir)
    try:
        linked = Models(registry.database).of_model(name, version)
        now = model_now(linked, read_served(registry.database))
    finally:
        registry.close()
    state = None if linked.training_set is None else manifest_state(linked.training_set)
    read = _read_with(linked, now)
    if json:
        told = {"now": {"service": now.service, "readable": now.readable, "pins": now.pins, "read_with": read}}
        print_json(_document(linked) | {"training_set_state": state} | told)
        return
    service = {"same": "asks for the same now", "other": "reads other versions or features now", "gone": "is gone"}
    facts = [
        ("service", f"{linked.service.name}, {service[now.service]}"),
        ("service hash", linked.service_hash),
        ("training set", None if linked.training_set is None else f"{linked.training_set.manifest} ({state})"),
        ("uri", linked.uri),
        ("run", linked.run_id),
        ("linked", f"{linked.linked_at:%Y-%m-%d %H:%M} by {linked.linked_by}"),
    ]
    print_table([f"{name}/{version}", ""], facts)
    print_line("")
    rows = [(f"{pin.view}:{one}", pin.version, _now(pin)) for pin in now.pins for one in pin.features]
    print_table(["feature", "version", "now"], rows)
    print_line("")
    if read is not None:
        print_line(f"  read them: {read}")
    for pin in now.pins:
        if pin.computed is None:
            print_note(f"{pin.view}@{pin.version} is not computed: see featurestore versions {pin.view}")


def _read_with(linked: "ModelLink", now: "ModelNow") -> str | None:
    """A command that reads the model's very features; None when some are no longer computed."""
    if not now.readable:
        return None
    if now.service == "same":
        return f"featurestore get --service {linked.service.name} -e KEY=VALUE"
    names = [f"{pin.view}@{pin.computed}:{one}" for pin in now.pins for one in pin.features]
    return f"featurestore get {' '.join(names)} -e KEY=VALUE"


def _now(pin: "PinNow") -> str:
    if pin.computed is None:
        return "not computed"
    if pin.computed == pin.version:
        return str(pin.role)
    return f"version {pin.computed} computes the same ({pin.role})"


def _views(linked: "ModelLink", separator: str = ", ") -> str:
    return separator.join(f"{view.name}@{view.version}" for view in linked.service.views)


def _document(linked: "ModelLink") -> dict[str, Any]:
    pins = linked.service.views
    return {
        "model": linked.name,
        "version": linked.version,
        "uri": linked.uri,
        "service": linked.service.name,
        "service_hash": linked.service_hash,
        "features": [f"{pin.name}@{pin.version}:{one}" for pin in pins for one in pin.features],
        "training_set": linked.training_set,
        "run_id": linked.run_id,
        "linked_at": linked.linked_at,
        "linked_by": linked.linked_by,
    }
