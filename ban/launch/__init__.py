"""Runs commands and sweeps: every missing stage is trained once."""
