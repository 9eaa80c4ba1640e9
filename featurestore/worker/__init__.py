"""The worker: a thin bytewax dataflow that wires source, shards and stores, and the supervisor of its processes."""
