"""The shard processor: fence, merge, commit, outbox, as decisions on data.

It takes batches of accepted events and knows nothing of bytewax, Kafka or RocksDB; a store that keeps its protocol
(`shard/protocol.py`) makes each commit durable, all or none.
"""
