"""Trained networks outside of trainings: loading, predictions for new inputs, and export. No code of a store is run."""
