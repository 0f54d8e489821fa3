"""Training: the loop, the optimizer, the learning rates and the held-out metrics of a run."""
