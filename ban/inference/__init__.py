"""Trained networks outside of trainings: loading, predictions for new inputs, and export. Nothing in the store is run."""
