"""Compression: makes a trained network smaller, and gives it back as a run."""
