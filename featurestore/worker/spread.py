"""Keys for shards, chosen so that bytewax spreads them evenly over its processes.

bytewax routes a key to process `hash(key) % processes`, the hash being Rust's default one; eight keys numbered plainly
fall 2 and 6 on two processes. A wrong guess here would cost balance, never a result: a test with two real processes
holds it against bytewax.
"""

from __future__ import annotations

from itertools import count

_MASK = 2**64 - 1


def shard_key(shard: int, processes: int) -> str:
    """The routing key of a shard: the first of `0007-0`, `0007-1`, … that goes to process shard % processes."""
    for salt in count():
        key = f"{shard:04d}-{salt}"
        if rust_string_hash(key) % processes == shard % processes:
            return key
    raise AssertionError("unreachable")


def rust_string_hash(text: str) -> int:
    """SipHash-1-3 with a zero key over the UTF-8 bytes and a closing 0xff, as Rust hashes a `str` by default.

    Source: Aumasson, Bernstein, "SipHash: a fast short-input PRF" (2012), with 1 and 3 rounds.
    """
    data = text.encode() + b"\xff"
    v = [0x736F6D6570736575, 0x646F72616E646F6D, 0x6C7967656E657261, 0x7465646279746573]
    whole = len(data) - len(data) % 8
    words = [int.from_bytes(data[at : at + 8], "little") for at in range(0, whole, 8)]
    words.append((len(data) & 0xFF) << 56 | int.from_bytes(data[whole:], "little"))
    for word in words:
        v[3] ^= word
        _round(v)
        v[0] ^= word
    v[2] ^= 0xFF
    for _ in range(3):
        _round(v)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def _round(v: list[int]) -> None:
    v[0] = (v[0] + v[1]) & _MASK
    v[1] = _rotate(v[1], 13) ^ v[0]
    v[0] = _rotate(v[0], 32)
    v[2] = (v[2] + v[3]) & _MASK
    v[3] = _rotate(v[3], 16) ^ v[2]
    v[0] = (v[0] + v[3]) & _MASK
    v[3] = _rotate(v[3], 21) ^ v[0]
    v[2] = (v[2] + v[1]) & _MASK
    v[1] = _rotate(v[1], 17) ^ v[2]
    v[2] = _rotate(v[2], 32)


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & _MASK
