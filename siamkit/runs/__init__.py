"""A run on the disk: its directory, checkpoints, embeddings, calibration and events."""
