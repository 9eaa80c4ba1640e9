"""What an author writes: entities, sources, views, aggregates and windows, with their checks and fingerprints."""
