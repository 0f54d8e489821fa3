"""Metrics on embeddings."""
