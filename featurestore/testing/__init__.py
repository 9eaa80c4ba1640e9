"""For tests, also yours: a shard store in memory and crash points. No part of a production run."""
