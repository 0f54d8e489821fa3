"""Galleries: indexed embeddings, exact and approximate search."""
