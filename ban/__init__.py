"""Born-again neural networks: a student identical to its teacher, taught by it, generation after generation."""

__version__ = "0.2.0"
