"""The race: the standard job in several shapes, ours beside other engines. How and what: benchmarks/README.md."""
