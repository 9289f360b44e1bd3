"""Training one stage: building it, the loop, evaluation, checkpoints and the result."""
