"""The benchmark of training sets: `python -m benchmarks.training`."""
