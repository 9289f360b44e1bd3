"""Runs of stages in TensorBoard, MLflow and Weights & Biases."""
