"""Settings: their schema, how they are composed and checked, and what sweeps expand to."""
