"""The online store: RocksDB shards, the row format, keys, the reader.

rocksdict stays in this room. A worker opens a shard as its one primary; servers open it as secondaries.
"""
