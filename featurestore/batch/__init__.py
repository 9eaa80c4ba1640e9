"""Batch views: read files and databases, keep both stores in step with them, join their rows point in time.

A row counts by its two times alone: from when on it is valid, and when it was created.
"""
