"""The stores made again: backups taken while workers run, their restore, an online store rebuilt from the archive."""
