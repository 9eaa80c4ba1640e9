"""Rows of batch views in the online store: one an entity, the newest.

byte 0      format version (1)
byte 1-7    reserved, zero
byte 8-15   event time, int64 µs little-endian
byte 16-23  created time, int64 µs
then        the features' values in the order of the definition, as a MessagePack array
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

import msgspec

from featurestore.definitions.specs import Scalar
from featurestore.errors import StoreFormatError

ROW_VERSION = 1
_HEAD = struct.Struct("<B7xqq")
_encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(list[Scalar]).decode


def encode_batch_row(event_us: int, created_us: int, values: Sequence[Scalar]) -> bytes:
    """The stored form of one row."""
    return _HEAD.pack(ROW_VERSION, event_us, created_us) + _encode(values)


def times_of(row: bytes) -> tuple[int, int]:
    """(event time, created time) of a stored row, µs. Raises StoreFormatError for another format."""
    version, event_us, created_us = _HEAD.unpack_from(row)
    if version != ROW_VERSION:
        raise StoreFormatError(
            f"a stored row of a batch view has format {version}, this version reads {ROW_VERSION}",
            hint="use the featurestore version that wrote it, or remove the view's store and materialize it anew",
        )
    return event_us, created_us


def values_of(row: bytes) -> list[Scalar]:
    """The features' values of a stored row."""
    return _decode(memoryview(row)[_HEAD.size :])
