"""Measurements on a real broker. How to run them, and their figures: benchmarks/README.md."""
