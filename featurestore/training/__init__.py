"""Training data: features as they stood at each row of a spine, from the archive and by the kernels of the stream."""
