"""The streams of `tests.strategies` as they are on the wire, and what a decoder must make of them.

`json_value` is what to send; `through_json` gives the oracle the same stream as it was sent, so that the
bytes of a value decide its dead-letter reason.
"""

from __future__ import annotations

import json
from dataclasses import replace

from tests.oracle.model import Message
from tests.oracle.wire import Column, read_json
from tests.strategies import COLUMNS, Stream

EVENT_TIME = "ts"
WIRE_COLUMNS = {name: Column(dtype, nullable) for name, (dtype, nullable) in COLUMNS.items()}

_AVRO = {
    "Datetime": {"type": "long", "logicalType": "timestamp-micros"},
    "String": "string",
    "Float64": "double",
    "Int64": "long",
    "Boolean": "boolean",
}
AVRO_SCHEMA = {
    "type": "record",
    "name": "Payment",
    "fields": [
        {"name": name, "type": ["null", _AVRO[dtype]], "default": None}
        if nullable
        else {"name": name, "type": _AVRO[dtype]}
        for name, (dtype, nullable) in COLUMNS.items()
    ],
}

# What a message without an event is on the wire, in turn by its offset; the reason that it must get.
BAD_VALUES: tuple[tuple[bytes | None, str], ...] = (
    (b"{", "malformed"),
    (b"", "malformed"),
    (None, "tombstone"),
    (b'{"ts": 1}\n{"ts": 2}', "malformed"),
    (b"[]", "malformed"),
    (b'{"ts": "yesterday"}', "wrong_type"),
    (b'{"card_id": "c1"}', "missing_field"),
    (b'{"ts": null}', "null_field"),
    (b'{"ts": 1, "quantity": 9223372036854775808}', "out_of_range"),
    (b'{"ts": 9223372036854775807}', "event_time_out_of_range"),
    (b'{"ts": 1, "amount": NaN}', "malformed"),
    (b'{"ts": 1, "card_id": "\xff"}', "malformed"),
)


def json_value(message: Message) -> bytes | None:
    """The value of a message on a JSON topic."""
    if message.event is None:
        return BAD_VALUES[message.offset % len(BAD_VALUES)][0]
    return json.dumps(message.event, ensure_ascii=False).encode()


def through_json(stream: Stream) -> Stream:
    """The stream after its way over the wire: bad values have their reasons, times that are null are bad."""
    return [[_read(message) for message in partition] for partition in stream]


def _read(message: Message) -> Message:
    event, reason = read_json(json_value(message), WIRE_COLUMNS, EVENT_TIME)
    return replace(message, event=event, reason=reason)
