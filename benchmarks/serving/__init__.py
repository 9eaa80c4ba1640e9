"""Reads over HTTP: latency, throughput and freshness (benchmarks/README.md)."""
