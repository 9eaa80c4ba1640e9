"""What an author writes: entities, sources, views, aggregates, windows; their checks and fingerprints."""
