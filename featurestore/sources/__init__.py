"""From bytes in Kafka to accepted batches: consumer, embedded broker, codecs, dead letters, lateness.

confluent_kafka stays in this room.
"""
