"""The metrics of embeddings, and the calibration of a threshold."""
