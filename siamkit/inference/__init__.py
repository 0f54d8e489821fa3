"""Inference with a trained network: embeddings, verification, galleries."""
