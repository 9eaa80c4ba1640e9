"""What an author writes: entities, sources, views, aggregates, windows; checked, and resolved to plain specs."""
