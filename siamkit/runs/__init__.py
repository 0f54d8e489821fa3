"""Runs on the disk: the directory, checkpoints, embeddings, calibration and events of a run."""
