"""Read events as OpenLineage's own classes define them: an unknown key, a missing one or a wrong value fails."""

from __future__ import annotations

import enum
import re
import types
import typing
from typing import Any

import attr
from openlineage.client import event_v2, facet_v2

_FACETS = {
    name: facet
    for module in vars(facet_v2).values()
    if isinstance(module, types.ModuleType)
    for name, facet in vars(module).items()
    if isinstance(facet, type) and name.endswith("Facet")
}


def parse_event(document: dict[str, Any]) -> event_v2.RunEvent:
    """A run event from its JSON document."""
    assert document["schemaURL"] == event_v2.RunEvent._get_schema()
    event: event_v2.RunEvent = _parse(event_v2.RunEvent, document)
    return event


def _parse(kind: Any, value: Any) -> Any:
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            assert type(None) in arguments
            return None
        (kind,) = (one for one in arguments if one is not type(None))
        return _parse(kind, value)
    if origin is list:
        assert isinstance(value, list)
        return [_parse(arguments[0], item) for item in value]
    if origin is dict:
        return {name: _parse(_facet(arguments[1], item), item) for name, item in value.items()}
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return kind(value)
    if attr.has(kind):
        return _parse_class(kind, value)
    assert isinstance(value, kind), (kind, value)
    return value


def _parse_class(kind: Any, value: dict[str, Any]) -> Any:
    hints = typing.get_type_hints(kind)
    fields = {field.name: field for field in attr.fields(kind)}
    unknown = value.keys() - fields.keys()
    assert not unknown, f"{kind.__name__} has no {unknown}"
    given = {fields[name].alias: _parse(hints[name], item) for name, item in value.items() if fields[name].init}
    return kind(**given)


def _facet(kind: Any, value: Any) -> Any:
    """The class of a facet, by the address of its schema, which has to be that class's."""
    if not isinstance(value, dict) or "_schemaURL" not in value:
        return kind
    name = re.sub(r".*/", "", value["_schemaURL"])
    assert _FACETS[name]._get_schema() == value["_schemaURL"]
    assert issubclass(_FACETS[name], kind)
    return _FACETS[name]
