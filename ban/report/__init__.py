"""Stored results as tables: statistics, the paper's numbers, and rendering."""
