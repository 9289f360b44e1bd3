"""What to train: stages, their signatures, and the lineage that a command asks for."""
