"""A whole run without Kafka and bytewax: source, archive, shards and outbox in one thread, dying at crash points."""
