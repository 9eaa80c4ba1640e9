"""`featurestore get`: one read from the shell."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import takewhile
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from featurestore.cli.options import DataDir, Json, load_settings
from featurestore.cli.output import print_json, print_table
from featurestore.errors import MalformedRequestError, RegistryError

if TYPE_CHECKING:
    from featurestore.config import Settings
    from featurestore.serving import OnlineRequest, OnlineResponse

EXAMPLES = (
    "Examples: [bold]featurestore get card_activity:count_10m card_activity:count_1h -e card_id=c1[/bold]   "
    "[bold]featurestore get card_activity:count_10m -e card_id=c1 -e card_id=c2 --as-of latest --json[/bold]   "
    "[bold]featurestore get --service fraud_v1 -e card_id=c1 -e merchant_id=m1[/bold]"
)


def get(
    entities: Annotated[
        list[str],
        typer.Option(
            "--entity",
            "-e",
            metavar="KEY=VALUE",
            help="A join key's value; again for another key, or for the next entity.",
            show_default=False,
        ),
    ],
    features: Annotated[
        list[str] | None, typer.Argument(metavar="[VIEW:FEATURE…]", help="What to read.", show_default=False)
    ] = None,
    service: Annotated[
        str | None, typer.Option(metavar="NAME", help="Read a feature service's features.", show_default=False)
    ] = None,
    full_feature_names: Annotated[bool, typer.Option(help="Columns are named VIEW__FEATURE.")] = False,
    as_of: Annotated[
        str | None,
        typer.Option(
            metavar="TIME|latest",
            help='An ISO 8601 instant with a zone, or "latest": just after the newest event.',
            show_default=False,
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="Ask this server instead of reading the local store.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    json: Json = False,
) -> None:
    """Read features of one or more entities.

    Reads the online store in \\[store] data_dir, whether a worker is running or not; values of -e take the
    join key's type. With --url a server is asked, and an integer key is written KEY:=5. With --json the
    answer is the document that the server sends.
    """
    from featurestore.serving import OnlineRequest

    if bool(features) == (service is not None):
        raise typer.BadParameter("name features, or a feature service with --service", param_hint="VIEW:FEATURE")
    request = OnlineRequest(
        entities=parse_entities(entities),
        features=features or None,
        feature_service=service,
        full_feature_names=full_feature_names,
        as_of=as_of,
    )
    response = _read_locally(load_settings(store__data_dir=data_dir), request) if url is None else _ask(url, request)
    if json:
        print_json(response)
        return
    names = response.metadata.feature_names
    # Join keys come first; which features a service has is known to the server alone.
    key_count = len(names) - len(features) if features else len(list(takewhile(request.entities.__contains__, names)))
    keys, columns = response.results[:key_count], response.results[key_count:]
    rows: list[list[object]] = []
    for entity in range(len(keys[0].values)):
        for reference, column in zip(features or names[key_count:], columns):
            values = [key.values[entity] for key in keys]
            status = column.statuses[entity]
            time = "" if status == "NOT_FOUND" else column.event_timestamps[entity]
            rows.append([*values, reference, column.values[entity], status, time])
    named = [*names[:key_count], "feature"]
    print_table([*named, "value", "status", "newest event"], rows, key_columns=len(named))


def parse_entities(pairs: Sequence[str]) -> dict[str, list[Any]]:
    """Columns from KEY=VALUE (text) and KEY:=VALUE (JSON) pairs, in their order.

    Raises MalformedRequestError for a pair without "=", with a value that is not JSON, or that is no UTF-8.
    """
    columns: dict[str, list[Any]] = {}
    for pair in pairs:
        if not pair.isprintable() and any("\udc80" <= character <= "\udcff" for character in pair):
            raise MalformedRequestError(f"-e {pair!a} is no UTF-8 text", hint="keys are text in UTF-8")
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise MalformedRequestError(f"-e {pair!r} is not KEY=VALUE", hint="write it like -e card_id=c1")
        if not name.endswith(":"):
            columns.setdefault(name, []).append(value)
            continue
        try:
            columns.setdefault(name[:-1], []).append(msgspec.json.decode(value))
        except msgspec.DecodeError as error:
            raise MalformedRequestError(
                f"-e {pair!r}: {value!r} is not JSON",
                hint="write it like -e account:=5; a text like -e card_id=c1",
            ) from error
    return columns


def typed_entities(columns: Mapping[str, Sequence[Any]], dtypes: Mapping[str, str]) -> dict[str, list[Any]]:
    """The columns with text turned into the join keys' types ("Int64", "Boolean").

    Raises MalformedRequestError when a text is no value of its key's type.
    """
    return {name: [_typed(name, value, dtypes.get(name)) for value in values] for name, values in columns.items()}


def _typed(name: str, value: object, dtype: str | None) -> object:
    if not isinstance(value, str):
        return value
    if dtype == "Int64":
        try:
            return int(value)
        except ValueError:
            raise MalformedRequestError(f"-e {name}={value}: '{name}' is an integer") from None
    if dtype == "Boolean":
        if value not in ("true", "false"):
            raise MalformedRequestError(f"-e {name}={value}: '{name}' is true or false")
        return value == "true"
    return value


def _read_locally(settings: "Settings", request: "OnlineRequest") -> "OnlineResponse":
    from featurestore.registry.usage import SHELL
    from featurestore.serving import FeatureService
    from featurestore.serving.usage import Usage

    usage = Usage(settings.registry_place)
    service = FeatureService(
        settings.store.data_dir, clock=settings.serving.clock, registry_place=settings.registry_place, usage=usage
    )
    try:
        service.refresh(check=True)
        dtypes = {key.name: key.dtype for key in service.join_keys(request)}
        asked = msgspec.structs.replace(request, entities=typed_entities(request.entities, dtypes))
        answer = service.answer(asked, SHELL.encode())
        with suppress(RegistryError):  # one that only reads goes on uncounted
            usage.flush()
        return answer
    finally:
        service.close()


def _ask(url: str, request: "OnlineRequest") -> "OnlineResponse":
    from featurestore.client import FeatureStoreClient
    from featurestore.serving.protocol import OnlineResponse, ResponseMetadata, ResultColumn

    with FeatureStoreClient(url, consumer="shell") as client:
        answer = client.get_online_features(
            request.features,
            request.entities,
            feature_service=request.feature_service,
            as_of=request.as_of,
            full_feature_names=request.full_feature_names,
        )
    columns = answer.to_dict()
    return OnlineResponse(
        ResponseMetadata(answer.names),
        [
            ResultColumn(_on_the_wire(columns[name]), answer.statuses[name], answer.event_timestamps[name])
            for name in answer.names
        ],
    )


def _on_the_wire(values: list[Any]) -> list[Any]:
    from featurestore.serving.protocol import wire_floats

    return wire_floats(values) if any(isinstance(value, float) for value in values) else values
