"""Tiles and windows: arrays in, arrays out, no I/O.

The one kernel behind the stream, the server, the point-in-time join and the backfill: what keeps them in agreement.
"""
