"""Finished stages on disk, and one stage as one file."""
