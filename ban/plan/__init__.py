"""What to train: stages, their signatures, and the lineages that jobs need."""
