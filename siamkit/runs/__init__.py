"""Run directories: checkpoints, events, held-out embeddings, calibration."""
